//! Bounds the length of one record of CSV.

use std::io::{self, Read};

/// Passes text through, and fails at a record that is longer than the bound. Without it, text that has no
/// line breaks, or a quotation mark that is never closed, would be read into memory as a whole.
pub(super) struct BoundedRecords<R> {
    input: R,
    delimiter: u8,
    bound: usize,
    /// Bytes of the incomplete record so far.
    open: usize,
    /// The number of complete records.
    complete: u64,
    state: State,
}

/// The state of the parser within a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the start of a field.
    Start,
    /// In a field without quotes.
    Plain,
    Quoted,
    /// Behind a quotation mark in a quoted field: the mark ends the field, unless another one follows.
    Ending,
}

impl<R> BoundedRecords<R> {
    pub(super) fn new(input: R, delimiter: u8, bound: usize) -> Self {
        Self {
            input,
            delimiter,
            bound,
            open: 0,
            complete: 0,
            state: State::Start,
        }
    }

    fn pass(&mut self, text: &[u8]) {
        if self.state != State::Quoted && !text.contains(&b'"') {
            // Without a quotation mark in this text, every line break ends a record.
            let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
            match text.iter().rposition(is_end) {
                Some(end) => {
                    self.complete += text.iter().filter(|byte| **byte == b'\n').count() as u64;
                    self.open = text.len() - end - 1;
                }
                None => self.open += text.len(),
            }
            self.state = match text.last() {
                Some(b'\n' | b'\r') => State::Start,
                Some(last) if *last == self.delimiter => State::Start,
                Some(_) => State::Plain,
                None => self.state,
            };
            return;
        }
        for &byte in text {
            self.open += 1;
            self.state = match (self.state, byte) {
                (State::Quoted, b'"') => State::Ending,
                (State::Quoted, _) => State::Quoted,
                (State::Start | State::Ending, b'"') => State::Quoted,
                (_, b'\n' | b'\r') => {
                    self.complete += u64::from(byte == b'\n');
                    self.open = 0;
                    State::Start
                }
                (_, byte) if byte == self.delimiter => State::Start,
                _ => State::Plain,
            };
        }
    }
}

impl<R: Read> Read for BoundedRecords<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.pass(&buffer[..read]);
        if self.open > self.bound {
            let (bound, after) = (crate::size::human(self.bound), self.complete);
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "the record behind {} takes more than {bound}: this is no CSV, or a quotation mark is not closed",
                    crate::size::counted(after, "line")
                ),
            ));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, bound: usize, chunk: usize) -> io::Result<usize> {
        let mut reader = BoundedRecords::new(text.as_bytes(), b',', bound);
        let mut buffer = vec![0; chunk];
        let mut sum = 0;
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(sum),
                read => sum += read,
            }
        }
    }

    #[test]
    fn records_up_to_the_bound_pass_however_they_are_cut() {
        let text = "a,\"b\n\"\"c\",d\r\n5\"x,y\n\"\",\"\"\n";
        for chunk in 1..text.len() {
            assert_eq!(read(text, 12, chunk).unwrap(), text.len(), "{chunk}");
        }
    }

    #[test]
    fn a_line_without_an_end_and_a_quotation_mark_that_is_not_closed_are_errors() {
        let open_quote = format!("a,b\n1,\"x\n{}", "2,y\n".repeat(100));
        for text in [&"z".repeat(300), &open_quote] {
            for chunk in [1, 7, 64] {
                let error = read(text, 100, chunk).unwrap_err().to_string();
                assert!(error.contains("more than 100 B"), "{error}");
            }
        }
        assert!(read(&open_quote, 1000, 64).is_ok());
    }
}
