//! The report as JSON that a person can read and a `diff` can compare: one item a line.

use serde_json::Value;

use super::ReportFile;

/// What fits on a line stays on one.
const LINE: usize = 100;
/// What stays on one however long it is; `item` is an element of `items`.
const ON_A_LINE: &[&str] = &["item", "marks", "better", "worse"];

impl ReportFile {
    /// As JSON.
    pub fn value(&self) -> Value {
        // Strings, numbers and lists of them.
        serde_json::to_value(self).expect("a report is JSON")
    }

    /// As the text of `report.json`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        write(&self.value(), "", 0, &mut text);
        text.push('\n');
        text
    }
}

fn write(value: &Value, key: &str, depth: usize, text: &mut String) {
    let compact = value.to_string();
    let list_of_items = key == "items";
    if !list_of_items && (compact.len() <= LINE || ON_A_LINE.contains(&key)) {
        text.push_str(&compact);
        return;
    }
    let indent = "  ".repeat(depth + 1);
    let end = "  ".repeat(depth);
    match value {
        Value::Array(values) if !values.is_empty() => {
            let inner = if list_of_items { "item" } else { "" };
            text.push_str("[\n");
            for (index, value) in values.iter().enumerate() {
                text.push_str(&indent);
                write(value, inner, depth + 1, text);
                text.push_str(if index + 1 < values.len() {
                    ",\n"
                } else {
                    "\n"
                });
            }
            text.push_str(&format!("{end}]"));
        }
        Value::Object(entries) if !entries.is_empty() => {
            text.push_str("{\n");
            for (index, (key, value)) in entries.iter().enumerate() {
                // A JSON string is written as JSON.
                text.push_str(&format!("{indent}{}: ", Value::from(key.as_str())));
                write(value, key, depth + 1, text);
                text.push_str(if index + 1 < entries.len() {
                    ",\n"
                } else {
                    "\n"
                });
            }
            text.push_str(&format!("{end}}}"));
        }
        _ => text.push_str(&compact),
    }
}
