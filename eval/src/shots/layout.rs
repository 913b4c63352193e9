//! How examples and question become a prompt.

use datasets::{Message, Role};

use super::Layout;
use super::pool::Shot;
use crate::Prompt;
use crate::task::Task;

impl Layout {
    /// Examples, then the question. A system message is the question's own and stands once, on top.
    pub(super) fn prompt<'s>(
        self,
        task: &Task,
        shots: impl Iterator<Item = &'s Shot>,
        question: &[Message],
    ) -> Prompt {
        let (system, user): (Vec<&Message>, Vec<&Message>) =
            question.iter().partition(|m| m.role == Role::System);
        let mut messages: Vec<Message> = system.into_iter().cloned().collect();
        match self {
            Layout::MultiTurn => {
                for shot in shots {
                    messages.extend(shot.question().cloned());
                    messages.push(Message::new(Role::Assistant, shot.answer.as_str()));
                }
                messages.extend(user.into_iter().cloned());
            }
            Layout::Inline => {
                let mut parts: Vec<String> = shots.map(solved).collect();
                parts.push(joined(user.into_iter()));
                messages.push(Message::new(Role::User, parts.join("\n\n")));
            }
        }
        task.prompt(messages)
    }
}

/// An example as text: its answer goes on where its question ends, after a space.
fn solved(shot: &Shot) -> String {
    let question = joined(shot.question());
    let space = match question.chars().next_back() {
        Some(last) if last.is_whitespace() => "",
        _ => " ",
    };
    format!("{question}{space}{}", shot.answer)
}

fn joined<'m>(messages: impl Iterator<Item = &'m Message>) -> String {
    let texts: Vec<&str> = messages.map(|message| message.content.as_str()).collect();
    texts.join("\n\n")
}
