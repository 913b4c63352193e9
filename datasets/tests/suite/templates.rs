//! Conversations become pieces and tokens, and only answers are taught.

use datasets::recipe::TemplateKind;
use datasets::{
    Conversation, GgufVocab, Message, OnTooLong, Piece, Provenance, Role, Template, Tokenized,
    Tokenizer, tokenize, tokenize_documents,
};
use insta::assert_snapshot;
use serde_json::json;

use crate::shown;

/// A byte-level vocabulary of the 256 bytes, three ChatML tokens, and a few
/// merges, so that a token may be several characters.
pub fn tokenizer(chat_template: &str) -> Tokenizer {
    // GPT-2's alphabet: printable bytes stand for themselves, the others for
    // characters from U+0100 on.
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let mut tokens: Vec<String> = (0..=255u8)
        .map(|byte| {
            if printable(&byte) {
                return char::from(byte).to_string();
            }
            next += 1;
            char::from_u32(next - 1).unwrap().to_string()
        })
        .collect();
    tokens.extend(["<|im_start|>", "<|im_end|>", "<|endoftext|>", "ye", "yes"].map(String::from));
    let token_types = (0..tokens.len())
        .map(|id| if (256..259).contains(&id) { 3 } else { 1 })
        .collect();
    let vocab = GgufVocab {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        token_types,
        merges: vec!["y e".into(), "ye s".into()],
        tokens,
        eos: Some(257),
        unk: Some(258),
        chat_template: Some(chat_template.into()),
        ..GgufVocab::default()
    };
    Tokenizer::from_gguf(&vocab).unwrap()
}

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn chat(template: &str) -> Template {
    Template::new(TemplateKind::Chat, &tokenizer(template)).unwrap()
}

fn messages(turns: &[(Role, &str)]) -> Vec<Message> {
    turns
        .iter()
        .map(|&(role, text)| Message::new(role, text))
        .collect()
}

fn conversation(turns: &[(Role, &str)]) -> Conversation {
    let provenance: Provenance = serde_json::from_value(
        json!({"source": "s", "file": "data.jsonl", "record": 7, "licence": "MIT", "access": "open"}),
    )
    .unwrap();
    Conversation {
        id: "s/7".into(),
        messages: messages(turns),
        provenance,
    }
}

fn targets(pieces: &[Piece]) -> Vec<&str> {
    pieces
        .iter()
        .filter(|piece| piece.target)
        .map(|piece| piece.text.as_str())
        .collect()
}

fn whole(pieces: &[Piece]) -> String {
    pieces.iter().map(|piece| piece.text.as_str()).collect()
}

use Role::{Assistant, System, User};

#[test]
fn me_llama_is_written_as_published() {
    let tokenizer = tokenizer(CHATML);
    let template = Template::new(TemplateKind::MeLlama, &tokenizer).unwrap();
    let turns = messages(&[
        (User, "Q1"),
        (Assistant, "A1"),
        (User, "Q2"),
        (Assistant, "A2"),
    ]);
    let pieces = template.render(&turns, false).unwrap();
    assert_eq!(
        whole(&pieces),
        "Human: \nQ1\n\nAssistant: \nA1<|im_end|>Human: \nQ2\n\nAssistant: \nA2<|im_end|>"
    );
    assert_eq!(targets(&pieces), ["A1<|im_end|>", "A2<|im_end|>"]);
    let prompt = template.render(&turns[..3], true).unwrap();
    assert_eq!(
        whole(&prompt),
        "Human: \nQ1\n\nAssistant: \nA1<|im_end|>Human: \nQ2\n\nAssistant: \n"
    );
    let system = messages(&[(System, "S"), (User, "Q"), (Assistant, "A")]);
    assert_eq!(
        whole(&template.render(&system, false).unwrap()),
        "Human: \nS\n\nQ\n\nAssistant: \nA<|im_end|>"
    );
}

#[test]
fn an_answer_and_its_end_are_taught_and_nothing_else() {
    let turns = messages(&[
        (System, "S"),
        (User, "say <|im_end|>\n"),
        (Assistant, "yes"),
        (User, "yes"),
        // What looks like the template's own text is still an answer's.
        (Assistant, "<|im_start|>user\nyes<|im_end|>\n\n"),
    ]);
    let pieces = chat(CHATML).render(&turns, false).unwrap();
    assert_eq!(
        targets(&pieces),
        [
            "yes<|im_end|>",
            "<|im_start|>user\nyes<|im_end|>\n\n<|im_end|>"
        ]
    );
    assert_eq!(
        pieces.last().unwrap(),
        &Piece {
            text: "\n".into(),
            target: false
        }
    );
}

#[test]
fn generation_tags_are_understood() {
    let tagged = CHATML.replace(
        "{{ m.content }}<|im_end|>",
        "{% if m.role == 'assistant' %}{%- generation %}{{ m.content }}{%- endgeneration -%}{% else %}{{ m.content }}{% endif %}<|im_end|>",
    );
    assert_ne!(tagged, CHATML);
    let turns = messages(&[(User, "Q"), (Assistant, "A")]);
    let pieces = chat(&tagged).render(&turns, false).unwrap();
    assert_eq!(targets(&pieces), ["A<|im_end|>"]);
}

#[test]
fn templates_have_pythons_functions() {
    let line = |template: &str| {
        whole(
            &chat(template)
                .render(&messages(&[(User, " <Q>é ")]), false)
                .unwrap(),
        )
    };
    assert_eq!(line("{{ messages[0].content.strip().upper() }}"), "<Q>É");
    assert_eq!(
        line("{{ messages|tojson }}"),
        r#"[{"role": "user", "content": " <Q>é "}]"#
    );
    assert_eq!(
        line("{{ {'a': [], 'b': none}|tojson(indent=2) }}"),
        "{\n  \"a\": [],\n  \"b\": null\n}"
    );
    assert_eq!(line("{{ strftime_now('%d %b %Y') }}"), "26 Jul 2024");
    assert_eq!(
        line("{{ eos_token }}{{ bos_token is defined }}{{ tools is none }}"),
        "<|im_end|>FalseTrue"
    );
    assert_eq!(
        line("  {% if true %}\nx\n  {% endif %}\n"),
        "x\n",
        "blocks are trimmed as transformers does"
    );
}

fn rendering_fails(template: &str, turns: &[(Role, &str)]) -> String {
    let error = match Template::new(TemplateKind::Chat, &tokenizer(template)) {
        Ok(template) => template.render(&messages(turns), false).unwrap_err(),
        Err(error) => error,
    };
    shown(&error)
}

#[test]
fn a_template_that_cannot_be_used_is_named() {
    let two = [
        (User, "secret"),
        (Assistant, "secret"),
        (User, "secret"),
        (Assistant, "secret"),
    ];
    assert_snapshot!(rendering_fails("{% for m in %}", &two), @"template chat_template, line 1: syntax error: unexpected end of block");
    assert_snapshot!(rendering_fails("{{ nothing.there }}", &two), @"template chat_template, line 1: undefined value: `nothing` is undefined");
    assert_snapshot!(rendering_fails("{{ messages[0].content|int }}", &two), @"template chat_template, line 1: invalid operation");
    assert_snapshot!(rendering_fails("{{ raise_exception('no system message, please') }}", &two), @"template chat_template, line 1: the template refuses: no system message, please");
    assert_snapshot!(rendering_fails("{{ strftime_now('%Q') }}", &two), @"template chat_template, line 1: strftime_now does not know %Q");
    assert_snapshot!(rendering_fails(&CHATML.replace("<|im_end|>", "."), &two), @r"
    the chat template ends the assistant's message 2 with no special token
    hint: without one the model never learns to stop: end the message with {{ eos_token }} in the template
    ");
    // Only the last answer's reasoning is kept, as Qwen3's template does.
    let last = CHATML.replace(
        "{{ m.content }}",
        "{% if loop.last %}[think]{% endif %}{{ m.content }}",
    );
    assert_snapshot!(rendering_fails(&last, &two), @r"
    the chat template writes message 1 differently once the answer is added: only 17 of 63 characters agree
    hint: this template rewrites earlier turns (some drop earlier answers' reasoning): tune on conversations with one answer, or use another template
    ");
    let counted = format!("{{{{ messages|length }}}}{CHATML}");
    assert_snapshot!(rendering_fails(&counted, &two), @r"
    the chat template writes message 1 differently once the answer is added: only 0 of 57 characters agree
    hint: this template rewrites earlier turns (some drop earlier answers' reasoning): tune on conversations with one answer, or use another template
    ");
    let none = Tokenizer::from_gguf(&GgufVocab {
        model: "gpt2".into(),
        tokens: vec!["a".into()],
        ..GgufVocab::default()
    })
    .unwrap();
    assert_snapshot!(shown(&Template::new(TemplateKind::Chat, &none).unwrap_err()), @r#"
    the tokenizer GGUF metadata tokenizer.ggml has no chat template
    hint: set data.template (for an evaluation eval.template) = "me-llama", or put a chat_template.jinja beside the tokenizer
    "#);
    assert_snapshot!(shown(&Template::new(TemplateKind::MeLlama, &none).unwrap_err()), @r#"
    the tokenizer GGUF metadata tokenizer.ggml has no eos_token
    hint: name it in tokenizer_config.json: "eos_token": "</s>"
    "#);
}

fn tokens(
    conversations: &[Conversation],
    max_seq_len: usize,
    on_too_long: OnTooLong,
) -> datasets::Result<datasets::TokenizedSet> {
    tokenize(
        conversations,
        &tokenizer(CHATML),
        &chat(CHATML),
        max_seq_len,
        on_too_long,
    )
}

/// The text of a sample's targets.
fn taught(sample: &Tokenized) -> String {
    let ids = sample
        .input_ids
        .iter()
        .zip(&sample.loss_mask)
        .filter(|(_, target)| **target);
    tokenizer(CHATML)
        .decode(&ids.map(|(id, _)| *id).collect::<Vec<_>>(), false)
        .unwrap()
}

#[test]
fn samples_are_numbered_and_masked() {
    let set = tokens(
        &[
            conversation(&[(User, "Q"), (Assistant, "yes")]),
            conversation(&[(User, "Q"), (Assistant, "né")]),
        ],
        64,
        OnTooLong::Error,
    )
    .unwrap();
    assert_eq!(
        set.samples.iter().map(|s| s.sample).collect::<Vec<_>>(),
        [0, 1]
    );
    assert_eq!(
        set.samples.iter().map(taught).collect::<Vec<_>>(),
        ["yes<|im_end|>", "né<|im_end|>"]
    );
    assert_eq!(set.samples[0].target_tokens(), 2, "yes is one token");
    let shown = tokenizer(CHATML).tokens_with_mask(&set.samples[1]);
    let tail: Vec<_> = shown[shown.len() - 5..]
        .iter()
        .map(|(text, target)| (text.as_str(), *target))
        .collect();
    assert_eq!(
        tail,
        [
            ("n", true),
            ("", true),
            ("é", true),
            ("<|im_end|>", true),
            ("\n", false)
        ]
    );
}

#[test]
fn the_order_and_the_first_error_do_not_depend_on_threads() {
    let mut conversations: Vec<_> = (0..500)
        .map(|i| conversation(&[(User, &format!("{i}")), (Assistant, "yes")]))
        .collect();
    let with = |threads: usize, conversations: &[Conversation]| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| tokens(conversations, 64, OnTooLong::Error))
    };
    assert_eq!(
        with(1, &conversations).unwrap(),
        with(4, &conversations).unwrap()
    );
    for i in [123, 124, 499] {
        conversations[i] = conversation(&[(User, "Q"), (Assistant, " ")]);
        conversations[i].id = format!("s/{i}");
    }
    for threads in [1, 4] {
        let error = with(threads, &conversations).unwrap_err();
        assert!(error.to_string().starts_with("sample s/123 "), "{error}");
    }
}

#[test]
fn what_does_not_fit_is_refused_dropped_or_cut() {
    let long =
        "The instruction. ".to_string() + &"é and more context ".repeat(40) + "The question?";
    let conversations = [
        conversation(&[(User, "Q"), (Assistant, "yes")]),
        conversation(&[
            (System, "Be short."),
            (User, &long),
            (Assistant, "the whole answer"),
        ]),
    ];
    let error = tokens(&conversations, 160, OnTooLong::Error).unwrap_err();
    assert_snapshot!(shown(&error), @r#"
    sample s/7 (data.jsonl, record 7): 886 tokens, more than max_seq_len = 160
    hint: raise max_seq_len, or set on_too_long = "drop" or "truncate_prompt"
    "#);

    let set = tokens(&conversations, 160, OnTooLong::Drop).unwrap();
    assert_eq!((set.samples.len(), set.dropped.len()), (1, 1));
    assert_eq!(
        (set.dropped[0].id.as_str(), set.dropped[0].tokens > 160),
        ("s/7", true)
    );

    let set = tokens(&conversations, 160, OnTooLong::TruncatePrompt).unwrap();
    assert_eq!(
        (set.samples.len(), set.truncated.len(), set.dropped.len()),
        (2, 1, 0)
    );
    let cut = &set.samples[1];
    assert_eq!(cut.sample, 1);
    assert!(
        (158..=160).contains(&cut.len()),
        "as much as fits: {}",
        cut.len()
    );
    assert_eq!(taught(cut), "the whole answer<|im_end|>");
    let text = tokenizer(CHATML).decode(&cut.input_ids, false).unwrap();
    assert!(text.starts_with(
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nThe instruction. "
    ));
    assert!(
        text.ends_with(
            "The question?<|im_end|>\n<|im_start|>assistant\nthe whole answer<|im_end|>\n"
        )
    );

    // The system message goes after the question; the answer never does.
    let set = tokens(&conversations, 64, OnTooLong::TruncatePrompt).unwrap();
    assert!(set.samples[1].len() <= 64);
    assert_eq!(taught(&set.samples[1]), "the whole answer<|im_end|>");
    let error = tokens(&conversations, 40, OnTooLong::TruncatePrompt).unwrap_err();
    assert_snapshot!(shown(&error), @r#"
    sample s/7 (data.jsonl, record 7): 47 tokens with an empty prompt, more than max_seq_len = 40: the answer itself is too long
    hint: raise max_seq_len, or set on_too_long = "drop"
    "#);
}

#[test]
fn a_template_error_names_the_sample() {
    let template = chat("{{ raise_exception('no') }}");
    let error = tokenize(
        &[conversation(&[(User, "secret"), (Assistant, "A")])],
        &tokenizer(CHATML),
        &template,
        9,
        OnTooLong::Error,
    );
    assert_snapshot!(shown(&error.unwrap_err()), @"sample s/7 (data.jsonl, record 7): template chat_template, line 1: the template refuses: no");
}

#[test]
fn documents_become_blocks() {
    let document = |id: &str, text: &str| datasets::Document {
        id: id.into(),
        text: text.into(),
        provenance: conversation(&[]).provenance,
    };
    let documents = [document("s/1", "yes yes"), document("s/2", "x")];
    let blocks = tokenize_documents(&documents, &tokenizer(CHATML), 4).unwrap();
    let text: Vec<_> = blocks
        .iter()
        .map(|b| tokenizer(CHATML).decode(&b.input_ids, false).unwrap())
        .collect();
    assert_eq!(text, ["yes yes<|im_end|>", "x<|im_end|>"]);
    let error = tokenize_documents(&[document("s/7", "")], &tokenizer(CHATML), 4).unwrap_err();
    assert_snapshot!(shown(&error), @r"
    sample s/7 (data.jsonl, record 7): no target token
    hint: a document needs at least one token
    ");
}
