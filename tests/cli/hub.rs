//! A server that speaks the Hugging Face Hub's paths, and one that stands for the network that its large files lie in.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use ledger::hash::Sha256;
use serde_json::json;
use sha1::{Digest, Sha1};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with a request.
#[derive(Clone, Copy)]
pub enum Fault {
    /// It is answered with this status and error code.
    Status(u16, &'static str),
    /// After so many bytes of its body the connection breaks.
    Cut(usize),
    /// One byte of its body is another.
    Wrong,
    /// It is answered from the first byte on, whatever was asked for.
    FromTheStart,
    /// Its body is longer than was said.
    TooLong,
}

/// The files of one model, and what goes wrong.
#[derive(Default)]
struct State {
    files: Vec<(String, Vec<u8>)>,
    /// By the end of a path: what happens to the next requests, in their order.
    faults: HashMap<String, Vec<Fault>>,
    /// Method, path, range and authorization of every request.
    requests: Vec<String>,
    cdn: String,
}

/// The servers; they end with the test's process.
pub struct Hub {
    state: Arc<Mutex<State>>,
    pub address: String,
}

impl Hub {
    /// A hub with the model `org/tiny`. Files that begin with `model` or `adapter` are large ones.
    pub fn with(files: &[(&str, Vec<u8>)]) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let address = listen(state.clone(), answer_as_hub);
        let cdn = listen(state.clone(), answer_as_cdn);
        {
            let mut state = state.lock().unwrap();
            state.cdn = cdn;
            let owned = |(name, bytes): &(&str, Vec<u8>)| ((*name).to_owned(), bytes.clone());
            state.files = files.iter().map(owned).collect();
        }
        Self { state, address }
    }

    /// What happens to the next requests for what ends so: `HEAD config.json`, `GET config.json`.
    pub fn fail(&self, request: &str, faults: &[Fault]) {
        let mut state = self.state.lock().unwrap();
        state.faults.insert(request.to_owned(), faults.to_vec());
    }

    /// Every request so far; the log is empty afterwards.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }
}

fn listen(state: Arc<Mutex<State>>, answer: fn(&Mutex<State>, Request) -> Answer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, state) = (stream.unwrap(), state.clone());
            thread::spawn(move || serve(stream, &state, answer));
        }
    });
    address
}

struct Request {
    method: String,
    path: String,
    range: Option<usize>,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    fault: Option<Fault>,
}

impl Answer {
    fn new(status: u16, headers: Vec<(&'static str, String)>, body: Vec<u8>) -> Self {
        Self {
            status,
            headers,
            body,
            fault: None,
        }
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>, answer: fn(&Mutex<State>, Request) -> Answer) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(first)) = lines.next() else {
        return;
    };
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = HashMap::new();
    for line in lines {
        let line = line.unwrap();
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let range = headers.get("range").map(|range| {
        let range = range.strip_prefix("bytes=").unwrap();
        range.strip_suffix('-').unwrap().parse().unwrap()
    });
    let mut entry = format!("{method} {path}");
    if let Some(from) = range {
        entry.push_str(&format!(" from {from}"));
    }
    if let Some(token) = headers.get("authorization") {
        entry.push_str(&format!(" as {token}"));
    }
    state.lock().unwrap().requests.push(entry);
    let is_head = method == "HEAD";
    let mut answer = answer(
        state,
        Request {
            method,
            path,
            range,
        },
    );
    // A client that has read enough may be gone.
    let _ = send(stream, &mut answer, is_head);
}

fn send(mut stream: TcpStream, answer: &mut Answer, is_head: bool) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} -\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut sent = answer.body.len();
    match answer.fault {
        Some(Fault::Cut(bytes)) => sent = sent.min(bytes),
        Some(Fault::Wrong) => answer.body[0] ^= 1,
        Some(Fault::TooLong) => {
            answer.body.extend([7; 5]);
            sent += 5;
        }
        _ => {}
    }
    // Without a length the end of the connection is the end of the body.
    if !matches!(answer.fault, Some(Fault::TooLong)) {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if !is_head {
        stream.write_all(&answer.body[..sent])?;
    }
    stream.flush()
}

/// The next fault of a request, if one is due.
fn fault(state: &mut State, request: &Request, file: &str) -> Option<Fault> {
    let faults = state
        .faults
        .get_mut(&format!("{} {file}", request.method))?;
    (!faults.is_empty()).then(|| faults.remove(0))
}

fn refused(fault: Option<Fault>) -> Option<Answer> {
    match fault {
        Some(Fault::Status(status, code)) => Some(Answer::new(
            status,
            vec![("X-Error-Code", code.into())],
            vec![],
        )),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn git_id(bytes: &[u8]) -> String {
    let hash = Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
    hex(&hash.chain_update(bytes).finalize())
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub fn is_large(file: &str) -> bool {
    file.starts_with("model") && file.ends_with(".safetensors") || file.starts_with("adapter_model")
}

fn answer_as_hub(state: &Mutex<State>, request: Request) -> Answer {
    let mut state = state.lock().unwrap();
    let none = |code: &str| Answer::new(404, vec![("X-Error-Code", code.into())], vec![]);
    if let Some(revision) = request.path.strip_prefix("/api/models/org/tiny/revision/") {
        let found = fault(&mut state, &request, "api");
        if let Some(answer) = refused(found) {
            return answer;
        }
        if !["main", "v%2F2", COMMIT].contains(&revision) {
            return none("RevisionNotFound");
        }
        let siblings = state
            .files
            .iter()
            .map(|(name, _)| json!({"rfilename": name}));
        let listing =
            json!({"id": "org/tiny", "sha": COMMIT, "siblings": siblings.collect::<Vec<_>>()});
        let mut answer = Answer::new(200, vec![], listing.to_string().into_bytes());
        answer.fault = found;
        return answer;
    }
    let prefix = format!("/org/tiny/resolve/{COMMIT}/");
    let moved = "/api/resolve-cache/models/org/tiny/";
    let (file, here) = match request.path.strip_prefix(&prefix) {
        Some(file) => (file.to_owned(), false),
        None => match request.path.strip_prefix(moved) {
            Some(file) => (file.to_owned(), true),
            None => return none("RepoNotFound"),
        },
    };
    // What is to go wrong with a large file's content goes wrong where it lies.
    let elsewhere = is_large(&file) && request.method == "GET";
    let found = match elsewhere {
        true => None,
        false => fault(&mut state, &request, &file),
    };
    if let Some(answer) = refused(found) {
        return answer;
    }
    let Some((_, bytes)) = state.files.iter().find(|(name, _)| *name == file) else {
        return none("EntryNotFound");
    };
    let mut headers = vec![("X-Repo-Commit", COMMIT.to_owned())];
    if is_large(&file) {
        headers.push(("X-Linked-Etag", format!("\"{}\"", sha256(bytes))));
        headers.push(("X-Linked-Size", bytes.len().to_string()));
        headers.push(("ETag", "\"of-the-redirect\"".into()));
        headers.push(("Location", format!("{}/{file}?signed", state.cdn)));
        return Answer::new(302, headers, b"elsewhere".to_vec());
    }
    // One file takes a way within the hub, as small files do where the hub keeps them nearer to the user.
    if file == "tokenizer.json" && !here {
        headers.push(("Location", format!("{moved}{file}")));
        return Answer::new(307, headers, b"near".to_vec());
    }
    headers.push(("ETag", format!("W/\"{}\"", git_id(bytes))));
    let mut answer = Answer::new(200, headers, bytes.clone());
    answer.fault = found;
    answer
}

fn answer_as_cdn(state: &Mutex<State>, request: Request) -> Answer {
    let mut state = state.lock().unwrap();
    let file = request
        .path
        .trim_start_matches('/')
        .trim_end_matches("?signed")
        .to_owned();
    let found = fault(&mut state, &request, &file);
    if let Some(answer) = refused(found) {
        return answer;
    }
    let (_, bytes) = state.files.iter().find(|(name, _)| *name == file).unwrap();
    let from = match found {
        Some(Fault::FromTheStart) => None,
        _ => request.range,
    };
    let mut answer = match from {
        Some(from) if from >= bytes.len() => Answer::new(416, vec![], vec![]),
        Some(from) => {
            let (last, all) = (bytes.len() - 1, bytes.len());
            let range = format!("bytes {from}-{last}/{all}");
            Answer::new(206, vec![("Content-Range", range)], bytes[from..].to_vec())
        }
        None => Answer::new(200, vec![], bytes.clone()),
    };
    answer.fault = found;
    answer
}
