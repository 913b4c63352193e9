//! A server on this machine that speaks the chat-completions API as the test tells it, and counts.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Value,
    /// How often this body has come before.
    pub before: usize,
}

impl Asked {
    /// The last message, or the text.
    pub fn question(&self) -> &str {
        let messages = self.body["messages"].as_array();
        let last = messages.and_then(|messages| messages.last()?["content"].as_str());
        last.or(self.body["prompt"].as_str()).unwrap_or_default()
    }
}

/// What the server does.
pub enum Does {
    /// Answers with a status, headers and a body.
    Says(u16, &'static str, String),
    /// Announces more than it sends.
    CutsShort(String),
    /// Closes the connection without a word.
    HangsUp,
    /// Says nothing for so long.
    Sleeps(Duration),
}

/// A chat completion with this text.
pub fn chat(text: &str) -> Does {
    let answer = json!({
        "model": "scripted-2024-06-13",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2},
    });
    Does::Says(200, "", answer.to_string())
}

/// An error as OpenAI writes it.
pub fn refusal(status: u16, headers: &'static str, code: &str) -> Does {
    let error = json!({"error": {"message": "Question 3: yes? is not allowed", "type": "error", "code": code}});
    Does::Says(status, headers, error.to_string())
}

type Script = dyn Fn(&Asked) -> Does + Send + Sync;

pub struct Server {
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    script: Box<Script>,
    asked: Mutex<Vec<Asked>>,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

impl Server {
    pub fn new(script: impl Fn(&Asked) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
        let shared = Arc::new(Shared {
            script: Box::new(script),
            asked: Mutex::default(),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = Arc::clone(&serving);
                thread::spawn(move || serving.serve(stream));
            }
        });
        Server { url, shared }
    }

    /// Everything that was asked, in the order of arrival.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// How often each question was asked.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for asked in self.asked() {
            *counts.entry(asked.question().to_owned()).or_default() += 1;
        }
        counts
    }

    /// The most requests that were under way at a time.
    pub fn most_open(&self) -> usize {
        self.shared.most_open.load(SeqCst)
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        let Some(asked) = self.read(&stream) else {
            return;
        };
        let open = self.open.fetch_add(1, SeqCst) + 1;
        self.most_open.fetch_max(open, SeqCst);
        let does = (self.script)(&asked);
        let (head, body) = match does {
            Does::Says(status, headers, body) => (
                format!(
                    "HTTP/1.1 {status} X\r\n{headers}content-length: {}",
                    body.len()
                ),
                body,
            ),
            Does::CutsShort(body) => (
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}", body.len() + 100),
                body,
            ),
            Does::HangsUp => (String::new(), String::new()),
            Does::Sleeps(time) => {
                thread::sleep(time);
                (String::new(), String::new())
            }
        };
        // Before the client knows that it may ask the next.
        self.open.fetch_sub(1, SeqCst);
        if !head.is_empty() {
            let _ = write!(stream, "{head}\r\nconnection: close\r\n\r\n{body}");
        }
    }

    fn read(&self, stream: &TcpStream) -> Option<Asked> {
        let mut reader = BufReader::new(stream);
        let mut first = String::new();
        reader.read_line(&mut first).ok()?;
        let path = first.split(' ').nth(1)?.to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        let body: Value = serde_json::from_slice(&body).ok()?;
        let mut asked = self.asked.lock().unwrap();
        let before = asked.iter().filter(|other| other.body == body).count();
        asked.push(Asked {
            path,
            headers,
            body,
            before,
        });
        asked.last().cloned()
    }
}
