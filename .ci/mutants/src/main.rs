//! Puts all mutants of some source files into the files themselves, so that one build has all of them: each is a branch
//! that is taken where the environment's `MUTANT` is its number.
//!
//! ```text
//! mutants LIST LEFT_OUT < mutants.json
//! ```
//!
//! Reads what `cargo mutants --list --json` prints, rewrites the files that it names (below the current directory), and
//! writes two files: `LIST` has a line for each mutant that is in the files now, its number and its name; `LEFT_OUT` the
//! same for those that have no such form, and why. Numbers given in the environment's `OMIT` (separated by commas) are
//! left out, too: those that the compiler refused.
//!
//! The text of mutant 7 is between the comments `/*7{*/` and `/*}7*/`, so that an error of the compiler leads to it.

mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::io::Read;

use places::{Place, Places, Shape};
use serde_json::Value;

/// A mutant, as cargo-mutants describes it.
struct Mutant {
    number: usize,
    name: String,
    genre: String,
    start: (usize, usize),
    replacement: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [list, left_out] = &arguments[..] else {
        return Err("usage: mutants LIST LEFT_OUT < mutants.json".into());
    };
    let omit: BTreeSet<usize> = std::env::var("OMIT")
        .unwrap_or_default()
        .split(',')
        .filter_map(|number| number.parse().ok())
        .collect();
    let mut json = String::new();
    std::io::stdin().read_to_string(&mut json)?;

    let (mut kept, mut rest) = (String::new(), String::new());
    for (file, mutants) in by_file(&serde_json::from_str(&json)?)? {
        let text = std::fs::read_to_string(&file)?;
        let mut places = Places::of(&text)?;
        for mutant in mutants {
            let line = format!("{}\t{}", mutant.number, mutant.name);
            let why = match omit.contains(&mutant.number) {
                true => Err("refused by the compiler"),
                false => places.add(
                    &mutant.genre,
                    mutant.start,
                    mutant.number,
                    &mutant.replacement,
                ),
            };
            match why {
                Ok(()) => writeln!(kept, "{line}")?,
                Err(why) => writeln!(rest, "{line}\t{why}")?,
            }
        }
        let used = places.used();
        std::fs::write(&file, render(&text, 0, text.len(), &used))?;
    }
    std::fs::write(list, kept)?;
    std::fs::write(left_out, rest)?;
    Ok(())
}

/// The mutants of each file, numbered from 1.
fn by_file(json: &Value) -> Result<BTreeMap<String, Vec<Mutant>>, &'static str> {
    let mut files: BTreeMap<String, Vec<Mutant>> = BTreeMap::new();
    let text = |value: &Value| {
        value
            .as_str()
            .map(str::to_owned)
            .ok_or("no string where one was expected")
    };
    for (index, mutant) in json.as_array().ok_or("no list")?.iter().enumerate() {
        let start = &mutant["span"]["start"];
        let number = |field: &str| start[field].as_u64().ok_or("no line, or no column");
        files
            .entry(text(&mutant["file"])?)
            .or_default()
            .push(Mutant {
                number: index + 1,
                name: text(&mutant["name"])?,
                genre: text(&mutant["genre"])?,
                start: (number("line")? as usize, number("column")? as usize),
                replacement: text(&mutant["replacement"])?,
            });
    }
    Ok(files)
}

/// The text from `from` to `to`, with the places in it rewritten. Those are sorted by their starts, outer ones first.
fn render(text: &str, from: usize, to: usize, places: &[&Place]) -> String {
    let (mut out, mut at) = (String::new(), from);
    for (index, place) in places.iter().enumerate() {
        if place.start < at || place.end > to {
            continue;
        }
        out.push_str(&text[at..place.start]);
        let within = &places[index + 1..];
        match &place.shape {
            Shape::Binary { operator } => binary(&mut out, text, place, operator, within),
            Shape::Unary { operand } => {
                out.push('(');
                for (number, _) in &place.mutants {
                    alternative(&mut out, *number, &text[*operand..place.end]);
                }
                let whole = render(text, place.start, place.end, within);
                let _ = write!(out, "{{ {whole} }})");
            }
            Shape::Guard => {
                out.push('(');
                for (number, value) in &place.mutants {
                    alternative(&mut out, *number, value);
                }
                let whole = render(text, place.start, place.end, within);
                let _ = write!(out, "{{ {whole} }})");
            }
            Shape::Pattern => {
                out.push_str(&text[place.start..place.end]);
                for (number, _) in &place.mutants {
                    let _ = write!(out, " if !crate::mutants::is({number})");
                }
            }
            Shape::Body => {
                for (number, value) in &place.mutants {
                    let _ = write!(
                        out,
                        "if crate::mutants::is({number}) {{ return /*{number}{{*/ {value} /*}}{number}*/; }} "
                    );
                }
                out.push_str(&render(text, place.start, place.end, within));
            }
        }
        at = place.end;
    }
    out.push_str(&text[at..to]);
    out
}

fn binary(
    out: &mut String,
    text: &str,
    place: &Place,
    operator: &std::ops::Range<usize>,
    within: &[&Place],
) {
    out.push('(');
    for (number, other) in &place.mutants {
        let (left, right) = (
            &text[place.start..operator.start],
            &text[operator.end..place.end],
        );
        alternative(out, *number, &format!("{left}{other}{right}"));
    }
    let whole = render(text, place.start, place.end, within);
    let _ = write!(out, "{{ {whole} }})");
}

fn alternative(out: &mut String, number: usize, text: &str) {
    let _ = write!(
        out,
        "if crate::mutants::is({number}) {{ /*{number}{{*/ {text} /*}}{number}*/ }} else "
    );
}
