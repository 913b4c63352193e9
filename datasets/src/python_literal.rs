//! Python literals, which some sets have in their cells because Python wrote
//! its lists there: lists, dicts and strings, `None`, `True` and `False`, as
//! `repr` writes them and `ast.literal_eval` reads them.

use serde_json::{Map, Value};

/// Lists in lists: as deep as `serde_json` goes.
const MAX_DEPTH: usize = 128;

/// What is not a literal, and the byte it was met at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotALiteral {
    pub wanted: &'static str,
    pub byte: usize,
}

impl std::fmt::Display for NotALiteral {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no {} at byte {}", self.wanted, self.byte)
    }
}

/// Reads one literal, which is all that `text` holds.
pub(crate) fn parse(text: &str) -> Result<Value, NotALiteral> {
    let mut parser = Parser { text, at: 0 };
    let value = parser.value(0)?;
    parser.space();
    if parser.at < text.len() {
        return Err(parser.wants("end of the text"));
    }
    Ok(value)
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn wants(&self, wanted: &'static str) -> NotALiteral {
        NotALiteral {
            wanted,
            byte: self.at,
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, NotALiteral> {
        if depth > MAX_DEPTH {
            return Err(self.wants("value less deep"));
        }
        self.space();
        match self.peek() {
            Some(b'[') => self.list(depth),
            Some(b'{') => self.dict(depth),
            Some(quote @ (b'\'' | b'"')) => Ok(Value::String(self.string(quote)?)),
            _ => {
                let words = [
                    ("None", Value::Null),
                    ("True", true.into()),
                    ("False", false.into()),
                ];
                for (word, value) in words {
                    if self.text[self.at..].starts_with(word) {
                        self.at += word.len();
                        return Ok(value);
                    }
                }
                Err(self.wants("list, dict or string"))
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, NotALiteral> {
        let mut items = Vec::new();
        while self.next(b']', items.is_empty(), "`,` or `]`")? {
            items.push(self.value(depth + 1)?);
        }
        Ok(Value::Array(items))
    }

    fn dict(&mut self, depth: usize) -> Result<Value, NotALiteral> {
        let mut entries = Map::new();
        let mut first = true;
        while self.next(b'}', first, "`,` or `}`")? {
            first = false;
            let Some(quote @ (b'\'' | b'"')) = self.peek() else {
                return Err(self.wants("string as a key"));
            };
            let key = self.string(quote)?;
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.wants("`:`"));
            }
            self.at += 1;
            let value = self.value(depth + 1)?;
            entries.insert(key, value);
        }
        Ok(Value::Object(entries))
    }

    /// Moves to the next element; past `close` and false if there is none. A
    /// comma may stand before `close`, as Python allows.
    fn next(&mut self, close: u8, first: bool, wanted: &'static str) -> Result<bool, NotALiteral> {
        if first {
            // The opening bracket.
            self.at += 1;
        }
        self.space();
        if !first && self.peek() != Some(close) {
            if self.peek() != Some(b',') {
                return Err(self.wants(wanted));
            }
            self.at += 1;
            self.space();
        }
        let ended = self.peek() == Some(close);
        self.at += usize::from(ended);
        Ok(!ended)
    }

    fn string(&mut self, quote: u8) -> Result<String, NotALiteral> {
        self.at += 1;
        let mut string = String::new();
        loop {
            let rest = &self.text[self.at..];
            let special = |c: char| c == '\\' || c == '\n' || c == char::from(quote);
            let Some(length) = rest.find(special) else {
                self.at = self.text.len();
                return Err(self.wants("end of the string"));
            };
            string.push_str(&rest[..length]);
            self.at += length;
            match self.peek() {
                Some(b'\\') => self.escape(&mut string)?,
                Some(b'\n') => return Err(self.wants("end of the string on its line")),
                _ => {
                    self.at += 1;
                    return Ok(string);
                }
            }
        }
    }

    /// A backslash and what it stands for; before other characters it is itself.
    fn escape(&mut self, string: &mut String) -> Result<(), NotALiteral> {
        let start = self.at;
        self.at += 1;
        let Some(kind) = self.peek() else {
            return Err(self.wants("end of the string"));
        };
        self.at += 1;
        string.push(match kind {
            b'\n' => return Ok(()),
            b'\\' | b'\'' | b'"' => char::from(kind),
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'a' => '\x07',
            b'b' => '\x08',
            b'f' => '\x0c',
            b'v' => '\x0b',
            b'x' => self.code(start, 2, 16)?,
            b'u' => self.code(start, 4, 16)?,
            b'U' => self.code(start, 8, 16)?,
            b'0'..=b'7' => {
                self.at -= 1;
                let digits = self.text[self.at..].bytes().take(3);
                let digits = digits.take_while(|byte| (b'0'..=b'7').contains(byte));
                self.code(start, digits.count(), 8)?
            }
            _ => {
                // The character after it is read as any other.
                self.at -= 1;
                '\\'
            }
        });
        Ok(())
    }

    fn code(&mut self, start: usize, digits: usize, radix: u32) -> Result<char, NotALiteral> {
        let code = self.text.get(self.at..self.at + digits);
        let code = code.filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let char = code
            .and_then(|code| u32::from_str_radix(code, radix).ok())
            .and_then(char::from_u32);
        match char {
            Some(char) => {
                self.at += digits;
                Ok(char)
            }
            None => Err(NotALiteral {
                wanted: "character's code",
                byte: start,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn literals_are_what_python_makes_of_them() {
        for (text, value) in [
            ("[]", json!([])),
            (" [ 'a' , \"b\" , ] ", json!(["a", "b"])),
            (
                "[{'key': 'A', 'value': \"it's\"}, {}]",
                json!([{"key": "A", "value": "it's"}, {}]),
            ),
            (r#"'a\'b\"c\\d'"#, json!("a'b\"c\\d")),
            (r"'\n\r\t\a\b\f\v'", json!("\n\r\t\x07\x08\x0c\x0b")),
            (r"'\x41\u00e9\U0001f600\101\0'", json!("Aé😀A\0")),
            ("'a\\\nb'", json!("ab")),
            (r"'\d é \é'", json!(r"\d é \é")),
            ("[None, True, False]", json!([null, true, false])),
        ] {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_is_no_literal_is_named_with_its_place() {
        let deep = "[".repeat(200);
        for (text, shown) in [
            ("", "no list, dict or string at byte 0"),
            ("[1]", "no list, dict or string at byte 1"),
            ("['a' 'b']", "no `,` or `]` at byte 5"),
            ("['a'", "no `,` or `]` at byte 4"),
            ("{'a' 'b'}", "no `:` at byte 5"),
            ("{'a': 'b'", "no `,` or `}` at byte 9"),
            ("{[]: 'b'}", "no string as a key at byte 1"),
            ("'a", "no end of the string at byte 2"),
            ("'a\\", "no end of the string at byte 3"),
            ("'a\nb'", "no end of the string on its line at byte 2"),
            (r"'a\ud83d'", "no character's code at byte 2"),
            (r"'\x4'", "no character's code at byte 1"),
            ("'a' + 'b'", "no end of the text at byte 4"),
            ("__import__('os')", "no list, dict or string at byte 0"),
            (&deep, "no value less deep at byte 129"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), shown, "{text}");
        }
    }
}
