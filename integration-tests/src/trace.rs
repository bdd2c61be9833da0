//! Reads reference traces: random runs of Arrow Java's allocator tree, with its numbers.
//!
//! The files are `data/traces/trace-*.txt`; one line is one step:
//!
//! ```text
//! policy pow2 | policy segment:1024          the tree's rounding policy
//! OPERATION -> RESULT | aID ALLOCATED HEADROOM OVER PEAK; aID ...;
//! end                                        everything was released and the root closed
//! ```
//!
//! `slice`, `share` and `transfer` name the new buffer first, then its source.
//!
//! One kind of result differs from ours on purpose: see [`Step::expected`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::{FromStr, SplitWhitespace};

use crate::operation::{Key, Operation, Outcome, Refusal, Rounding, State};

/// One run.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The name in messages.
    pub name: String,
    /// The tree's rounding policy.
    pub rounding: Rounding,
    /// The steps; the last one closes the root.
    pub steps: Vec<Step>,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Step {
    /// The line's number in the file, from 1.
    pub line: usize,
    /// The operation of the step.
    pub operation: Operation,
    /// The outcome in the reference.
    pub outcome: Outcome,
    /// The numbers of every open allocator after the step.
    pub states: Vec<State>,
}

impl Step {
    /// The outcome that the step must have.
    ///
    /// This is the reference's outcome, except for one kind of transfer: the reference charges the target
    /// before it discharges the source, and so it may say `over` for a transfer after which neither the
    /// target nor an ancestor is over its limit. Such a transfer fits.
    pub fn expected(&self) -> Outcome {
        let mut expected = self.outcome.clone();
        if let (Operation::Transfer { allocator, .. }, Outcome::Transferred { fit, .. }) =
            (&self.operation, &mut expected)
        {
            let target = self.states.iter().find(|it| it.allocator == *allocator);
            *fit |= target.is_some_and(|target| !target.over);
        }
        expected
    }
}

/// A line that cannot be parsed.
#[derive(Clone, PartialEq, Eq)]
pub struct ParseError {
    /// The trace's name.
    pub name: String,
    /// The line's number, from 1.
    pub line: usize,
    /// A description of the problem.
    pub problem: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            line,
            problem,
        } = self;
        write!(f, "{name}:{line}: {problem}")
    }
}

impl std::error::Error for ParseError {}

arrow_memory_core::__debug_as_display!(struct ParseError { name, line, problem });

impl Trace {
    /// Reads every trace in `data/traces`, in the order of their names.
    ///
    /// # Panics
    ///
    /// If there is no trace, or if one cannot be read.
    pub fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/traces");
        let entries = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()));
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.expect("a folder's entry can be read").path())
            .filter(|path| path.extension().is_some_and(|it| it == "txt"))
            .collect();
        paths.sort();
        assert!(!paths.is_empty(), "no traces in {}", folder.display());
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Self {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let text = std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        Self::parse(&name, &text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Reads a trace.
    ///
    /// # Errors
    ///
    /// [`ParseError`] at the first line that cannot be parsed, or at the end if the trace is incomplete.
    pub fn parse(name: &str, text: &str) -> Result<Self, ParseError> {
        let mut rounding = None;
        let mut steps: Vec<Step> = Vec::new();
        let mut ended = false;
        let mut line = 0;
        let error = |line, problem| ParseError {
            name: name.to_owned(),
            line,
            problem,
        };
        for text in text.lines() {
            line += 1;
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            if ended {
                return Err(error(line, format!("`{text}` after the end")));
            }
            if let Some(policy) = text.strip_prefix("policy ") {
                rounding = Some(parse_policy(policy).map_err(|it| error(line, it))?);
            } else if text == "end" {
                ended = true;
                if let Some(Operation::Root { allocator, .. }) =
                    steps.first().map(|step| step.operation.clone())
                {
                    steps.push(Step {
                        line,
                        operation: Operation::Close { allocator },
                        outcome: Outcome::Done,
                        states: Vec::new(),
                    });
                }
            } else {
                steps.push(parse_step(line, text).map_err(|it| error(line, it))?);
            }
        }
        if !ended {
            return Err(error(line, "the trace breaks off: no `end`".to_owned()));
        }
        if !matches!(steps.first(), Some(first) if matches!(first.operation, Operation::Root { .. }))
        {
            return Err(error(
                line,
                "the trace does not start with a root".to_owned(),
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            rounding: rounding.ok_or_else(|| error(line, "no policy is named".to_owned()))?,
            steps,
        })
    }

    /// The root's key and its limit.
    ///
    /// # Panics
    ///
    /// Never for a trace that was parsed.
    pub fn root(&self) -> (Key, usize) {
        match self.steps[0].operation {
            Operation::Root { allocator, limit } => (allocator, limit),
            ref other => panic!("{} starts with {other:?}", self.name),
        }
    }
}

fn parse_policy(text: &str) -> Result<Rounding, String> {
    match text.split_once(':') {
        None if text == "pow2" => Ok(Rounding::PowerOfTwo),
        Some(("segment", bytes)) => Ok(Rounding::Segment(number(bytes)?)),
        _ => Err(format!("unknown policy `{text}`")),
    }
}

fn parse_step(line: usize, text: &str) -> Result<Step, String> {
    let (operation, rest) = text.split_once(" -> ").ok_or("no ` -> `")?;
    let (outcome, states) = rest.split_once(" |").ok_or("no ` |`")?;
    let operation = parse_operation(operation)?;
    let outcome = parse_outcome(&operation, outcome)?;
    let states = states
        .split(';')
        .map(str::trim)
        .filter(|state| !state.is_empty())
        .map(|state| parse_state(state).map_err(|it| format!("state `{state}`: {it}")))
        .collect::<Result<_, _>>()?;
    Ok(Step {
        line,
        operation,
        outcome,
        states,
    })
}

fn parse_operation(text: &str) -> Result<Operation, String> {
    let mut words = Words::new(text);
    let word = words.word()?;
    let operation = match word {
        "alloc" | "release" | "slice" | "share" | "transfer" => parse_of_buffer(word, &mut words)?,
        "reserve" | "use" | "unreserve" => parse_of_reservation(word, &mut words)?,
        _ => parse_of_allocator(word, &mut words)?,
    };
    words.end()?;
    Ok(operation)
}

fn parse_of_allocator(word: &str, words: &mut Words<'_>) -> Result<Operation, String> {
    Ok(match word {
        "root" => Operation::Root {
            allocator: words.key('a')?,
            limit: words.number()?,
        },
        "child" => Operation::Child {
            allocator: words.key('a')?,
            parent: words.key('a')?,
            reservation: words.number()?,
            limit: words.number()?,
        },
        "force" => Operation::Force {
            allocator: words.key('a')?,
            bytes: words.number()?,
        },
        "unforce" => Operation::Unforce {
            allocator: words.key('a')?,
        },
        "limit" => Operation::Limit {
            allocator: words.key('a')?,
            limit: words.number()?,
        },
        "close" => Operation::Close {
            allocator: words.key('a')?,
        },
        other => return Err(format!("unknown operation `{other}`")),
    })
}

fn parse_of_buffer(word: &str, words: &mut Words<'_>) -> Result<Operation, String> {
    Ok(match word {
        "alloc" => Operation::Allocate {
            buffer: words.key('b')?,
            allocator: words.key('a')?,
            size: words.number()?,
        },
        "release" => Operation::Release {
            buffer: words.key('b')?,
        },
        "slice" => Operation::Slice {
            slice: words.key('b')?,
            buffer: words.key('b')?,
            offset: words.number()?,
            length: words.number()?,
        },
        "share" => Operation::Share {
            shared: words.key('b')?,
            buffer: words.key('b')?,
            allocator: words.key('a')?,
        },
        "transfer" => Operation::Transfer {
            moved: words.key('b')?,
            buffer: words.key('b')?,
            allocator: words.key('a')?,
        },
        other => return Err(format!("unknown operation `{other}`")),
    })
}

fn parse_of_reservation(word: &str, words: &mut Words<'_>) -> Result<Operation, String> {
    Ok(match word {
        "reserve" => Operation::Reserve {
            reservation: words.key('r')?,
            allocator: words.key('a')?,
            bytes: words.number()?,
        },
        "use" => Operation::Use {
            buffer: words.key('b')?,
            reservation: words.key('r')?,
        },
        "unreserve" => Operation::Unreserve {
            reservation: words.key('r')?,
        },
        other => return Err(format!("unknown operation `{other}`")),
    })
}

fn parse_outcome(operation: &Operation, text: &str) -> Result<Outcome, String> {
    let mut words = Words::new(text);
    let outcome = match (operation, words.word()?) {
        (Operation::Child { .. } | Operation::Allocate { .. }, "oom") => {
            Outcome::Refused(Refusal::Limit(words.key('a')?))
        }
        (Operation::Reserve { .. }, "refused") => Outcome::Refused(Refusal::SomeLimit),
        (Operation::Allocate { .. }, "ok") => Outcome::Allocated {
            capacity: words.number()?,
            references: words.number()?,
        },
        (Operation::Release { .. }, word @ ("last" | "kept")) => Outcome::Released {
            last: word == "last",
        },
        (Operation::Slice { .. }, "ok") => Outcome::Sliced {
            references: words.number()?,
        },
        (Operation::Share { .. }, "ok") => Outcome::Shared {
            references: words.number()?,
            accounted: words.number()?,
        },
        (Operation::Transfer { .. }, "ok") => Outcome::Transferred {
            fit: words.fit()?,
            references: words.number()?,
            accounted: words.number()?,
        },
        (Operation::Use { .. }, "ok") => Outcome::Used {
            capacity: words.number()?,
        },
        (Operation::Force { .. }, word @ ("fit" | "over")) => {
            Outcome::Forced { fit: word == "fit" }
        }
        (
            Operation::Root { .. }
            | Operation::Child { .. }
            | Operation::Reserve { .. }
            | Operation::Unreserve { .. }
            | Operation::Unforce { .. }
            | Operation::Limit { .. }
            | Operation::Close { .. },
            "ok",
        ) => Outcome::Done,
        (_, word) => return Err(format!("`{word}` is no result of this operation")),
    };
    words.end()?;
    Ok(outcome)
}

fn parse_state(text: &str) -> Result<State, String> {
    let mut words = Words::new(text);
    let state = State {
        allocator: words.key('a')?,
        allocated: words.number()?,
        headroom: words.number()?,
        over: match words.word()? {
            "0" => false,
            "1" => true,
            other => return Err(format!("`{other}` is neither 0 nor 1")),
        },
        peak: words.number()?,
    };
    words.end()?;
    Ok(state)
}

/// Reads the words of a line one after another.
struct Words<'a>(SplitWhitespace<'a>);

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Self {
        Self(text.split_whitespace())
    }

    fn word(&mut self) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| "a word is missing".to_owned())
    }

    fn number<T: FromStr>(&mut self) -> Result<T, String> {
        number(self.word()?)
    }

    /// A key such as `a3`.
    fn key(&mut self, kind: char) -> Result<Key, String> {
        let word = self.word()?;
        let digits = word.strip_prefix(kind);
        digits
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| format!("`{word}` is not `{kind}` and a number"))
    }

    fn fit(&mut self) -> Result<bool, String> {
        match self.word()? {
            "fit" => Ok(true),
            "over" => Ok(false),
            other => Err(format!("`{other}` is neither fit nor over")),
        }
    }

    fn end(&mut self) -> Result<(), String> {
        match self.0.next() {
            None => Ok(()),
            Some(word) => Err(format!("`{word}` is too much")),
        }
    }
}

fn number<T: FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("`{word}` is no number"))
}

#[cfg(test)]
mod tests;
