//! Writes GGUF files, to be read and to be broken.

#[derive(Clone)]
pub enum Value {
    U32(u32),
    I32(i32),
    U64(u64),
    F32(f32),
    Bool(bool),
    Text(&'static str),
    Texts(Vec<&'static str>),
    Ints(Vec<i32>),
    Floats(Vec<f32>),
}

#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    /// Outermost first; written innermost first.
    pub shape: Vec<u64>,
    pub kind: u32,
    pub data: Vec<u8>,
}

#[derive(Clone)]
pub struct Gguf {
    pub version: u32,
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
}

impl Gguf {
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            text(&mut out, key);
            write_value(&mut out, value);
        }
        let mut offset = 0u64;
        for t in &self.tensors {
            text(&mut out, &t.name);
            out.extend((t.shape.len() as u32).to_le_bytes());
            t.shape
                .iter()
                .rev()
                .for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(t.kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += (t.data.len() as u64).next_multiple_of(32);
        }
        for t in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&t.data);
        }
        out
    }

    pub fn set(&mut self, key: &str, value: Value) {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.push((key.into(), value));
    }

    pub fn remove(&mut self, key: &str) {
        self.metadata.retain(|(k, _)| k != key);
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    pub fn add_f32(&mut self, name: &str, shape: &[u64], values: &[f32]) {
        let data = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensors.push(Tensor {
            name: name.into(),
            shape: shape.to_vec(),
            kind: 0,
            data,
        });
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    let mut kind = |id: u32| out.extend(id.to_le_bytes());
    match value {
        Value::U32(n) => {
            kind(4);
            out.extend(n.to_le_bytes());
        }
        Value::I32(n) => {
            kind(5);
            out.extend(n.to_le_bytes());
        }
        Value::F32(x) => {
            kind(6);
            out.extend(x.to_le_bytes());
        }
        Value::Bool(b) => {
            kind(7);
            out.push(u8::from(*b));
        }
        Value::Text(s) => {
            kind(8);
            text(out, s);
        }
        Value::U64(n) => {
            kind(10);
            out.extend(n.to_le_bytes());
        }
        Value::Texts(list) => {
            list_head(out, 8, list.len());
            list.iter().for_each(|s| text(out, s));
        }
        Value::Ints(list) => {
            list_head(out, 5, list.len());
            list.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Value::Floats(list) => {
            list_head(out, 6, list.len());
            list.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
    }
}

fn list_head(out: &mut Vec<u8>, kind: u32, count: usize) {
    out.extend(9u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((count as u64).to_le_bytes());
}

/// A llama of one layer: 8 wide, 2 heads of 4, 1 key head, 12 wide inside, 5 tokens, tied. All f32.
pub fn tiny() -> Gguf {
    let u = Value::U32;
    let metadata = [
        ("general.architecture", Value::Text("llama")),
        ("llama.block_count", u(1)),
        ("llama.context_length", u(64)),
        ("llama.embedding_length", u(8)),
        ("llama.feed_forward_length", u(12)),
        ("llama.attention.head_count", u(2)),
        ("llama.attention.head_count_kv", u(1)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(100_000.0)),
        (
            "tokenizer.ggml.tokens",
            Value::Texts(vec!["a", "b", "c", "<s>", "</s>"]),
        ),
        (
            "tokenizer.ggml.token_type",
            Value::Ints(vec![1, 1, 1, 3, 3]),
        ),
        (
            "tokenizer.ggml.scores",
            Value::Floats(vec![0.5, -1.0, 0.0, 0.0, 0.0]),
        ),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
        ("tokenizer.ggml.bos_token_id", u(3)),
        ("tokenizer.ggml.eos_token_id", Value::I32(4)),
        ("general.file_type", Value::U64(0)),
    ];
    let mut gguf = Gguf {
        version: 3,
        metadata: metadata
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v))
            .collect(),
        tensors: vec![],
    };
    let tensors: [(&str, &[u64]); 11] = [
        ("token_embd.weight", &[5, 8]),
        ("blk.0.attn_norm.weight", &[8]),
        ("blk.0.attn_q.weight", &[8, 8]),
        ("blk.0.attn_k.weight", &[4, 8]),
        ("blk.0.attn_v.weight", &[4, 8]),
        ("blk.0.attn_output.weight", &[8, 8]),
        ("blk.0.ffn_norm.weight", &[8]),
        ("blk.0.ffn_gate.weight", &[12, 8]),
        ("blk.0.ffn_up.weight", &[12, 8]),
        ("blk.0.ffn_down.weight", &[8, 12]),
        ("output_norm.weight", &[8]),
    ];
    for (seed, (name, shape)) in tensors.into_iter().enumerate() {
        let count = shape.iter().product::<u64>() as usize;
        gguf.add_f32(
            name,
            shape,
            &crate::support::numbers(count, seed as u64 + 1),
        );
    }
    gguf
}
