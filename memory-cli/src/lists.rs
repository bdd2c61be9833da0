//! Lists on the command line: names separated by commas, in double quotes if they contain one.

/// One element: its text without quotes, and which of its bytes were quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) text: String,
    /// For each byte of `text`, whether it was quoted, and so is no separator.
    quoted: Vec<bool>,
}

impl Element {
    /// The parts between separators that are not quoted.
    pub(crate) fn split(&self, separator: u8) -> Vec<String> {
        let mut parts = vec![Vec::new()];
        for (&byte, &quoted) in self.text.as_bytes().iter().zip(&self.quoted) {
            if byte == separator && !quoted {
                parts.push(Vec::new());
            } else if let Some(part) = parts.last_mut() {
                part.push(byte);
            }
        }
        // The text was cut at ASCII characters only.
        let text = |part: Vec<u8>| String::from_utf8_lossy(&part).trim().to_owned();
        parts.into_iter().map(text).collect()
    }
}

/// The elements between commas that are outside of quotes and parentheses, without the blanks around them.
///
/// `a, "b,c", Decimal128(10,2)` has three elements. A quote within quotes is doubled.
pub(crate) fn elements(text: &str) -> Result<Vec<Element>, String> {
    let mut elements = Vec::new();
    let mut current: Vec<(char, bool)> = Vec::new();
    let (mut quoted, mut depth) = (false, 0_usize);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                current.push(('"', true));
            }
            '"' => quoted = !quoted,
            _ if quoted => current.push((c, true)),
            ',' if depth == 0 => elements.push(element(&std::mem::take(&mut current))?),
            _ => {
                match c {
                    '(' => depth += 1,
                    ')' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                current.push((c, false));
            }
        }
    }
    if quoted {
        return Err("a quotation mark is not closed".to_owned());
    }
    elements.push(element(&current)?);
    Ok(elements)
}

fn element(chars: &[(char, bool)]) -> Result<Element, String> {
    let is_blank = |&(c, quoted): &(char, bool)| c.is_whitespace() && !quoted;
    let start = chars.iter().position(|c| !is_blank(c));
    let end = chars.iter().rposition(|c| !is_blank(c));
    let (Some(start), Some(end)) = (start, end) else {
        return Err("an element is empty".to_owned());
    };
    let mut found = Element {
        text: String::new(),
        quoted: Vec::new(),
    };
    for &(c, quoted) in &chars[start..=end] {
        found.text.push(c);
        found.quoted.resize(found.text.len(), quoted);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        let elements = elements(text).unwrap();
        elements.into_iter().map(|element| element.text).collect()
    }

    #[test]
    fn elements_are_separated_by_commas_outside_of_quotes_and_parentheses() {
        assert_eq!(texts("id, name ,x"), ["id", "name", "x"]);
        assert_eq!(
            texts(r#""a,b",c"d"e," ""q"" ""#),
            ["a,b", "cde", r#" "q" "#]
        );
        assert_eq!(
            texts("p=Decimal128(10, 2),q=Utf8"),
            ["p=Decimal128(10, 2)", "q=Utf8"]
        );
        for bad in ["", "a,", ",a", "a,,b", "\"a", "a, "] {
            assert!(elements(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_element_is_split_where_it_is_not_quoted() {
        let element = elements(r#"s."a.b".名"#).unwrap().remove(0);
        assert_eq!(element.split(b'.'), ["s", "a.b", "名"]);
        assert_eq!(element.text, "s.a.b.名");
    }
}
