use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use datasets::Tokenized;
use datasets::recipe::TemplateKind;
use eval::{
    Endpoint, EndpointSection, Error, Item, Journals, LanguageModel, ModelError, OptionScore,
    Perplexity, Result, ScoreRequest, Session, Settings, Task, TaskResult, resume_perplexity,
    resume_task, run_perplexity, run_task,
};
use serde_json::{Value, json};

use crate::scripted::{SETTINGS, Scripted, folder, open, questions, yes_no};
use crate::server::{Server, chat, refusal};

const BY_LIKELIHOOD: &str = "answering = [\"log-likelihood\"]\nmetrics = [\"accuracy\"]";
const GENERATE: &str = "answering = [\"generate\"]\nmetrics = [\"accuracy\"]";

static NEVER: AtomicBool = AtomicBool::new(false);

/// A model whose power is cut after some batches.
struct Mortal {
    inner: Scripted,
    batches: usize,
}

impl Mortal {
    fn new(batches: usize) -> Self {
        let inner = Scripted {
            // No two alike, and no round numbers.
            log_prob: |prompt, option| -((prompt.len() * 7 + option.len()) as f64) / 3.7,
            ..Scripted::default()
        };
        Mortal { inner, batches }
    }

    fn live(&mut self) -> std::result::Result<(), ModelError> {
        self.batches = self
            .batches
            .checked_sub(1)
            .ok_or(ModelError::new("the power is out"))?;
        Ok(())
    }
}

impl LanguageModel for Mortal {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn score(
        &mut self,
        requests: &[ScoreRequest],
    ) -> std::result::Result<Vec<Vec<OptionScore>>, ModelError> {
        self.live()?;
        self.inner.score(requests)
    }

    fn generate(
        &mut self,
        requests: &[eval::GenerateRequest],
    ) -> std::result::Result<Vec<String>, ModelError> {
        self.live()?;
        self.inner.generate(requests)
    }

    fn perplexity(&mut self, samples: &[Tokenized]) -> std::result::Result<Perplexity, ModelError> {
        self.live()?;
        self.inner.calls.push(samples.len());
        let sum: u32 = samples.iter().flat_map(|sample| &sample.input_ids).sum();
        Ok(Perplexity {
            loss_sum: f64::from(sum) / 3.7,
            tokens: samples.len() as u64,
        })
    }
}

fn place(lines: &str) -> (tempfile::TempDir, Task, Vec<Item>) {
    let folder = folder(&yes_no(lines), &questions());
    let (task, items) = open(&folder).unwrap();
    (folder, task, items)
}

fn resume(
    (folder, task, items): &(tempfile::TempDir, Task, Vec<Item>),
    model: &mut dyn LanguageModel,
    settings: &Settings,
    identity: Value,
) -> Result<TaskResult> {
    let mut journals = Journals::new(folder.path().join("journal"));
    let mut session = Session {
        journals: Some(&mut journals),
        identity,
        stop: &NEVER,
    };
    resume_task(task, items, model, settings, &mut session, &mut |_| {})
}

fn journals(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("journal")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn same(one: &TaskResult, other: &TaskResult) {
    assert_eq!(one.items, other.items);
    assert_eq!(
        one.scores[0].value.to_bits(),
        other.scores[0].value.to_bits()
    );
}

#[test]
fn an_interrupted_evaluation_goes_on_where_it_was() {
    for lines in [BY_LIKELIHOOD, GENERATE] {
        let place = place(lines);
        let whole = run_task(
            &place.1,
            &place.2,
            &mut Mortal::new(9),
            &SETTINGS,
            &mut |_| {},
        )
        .unwrap();
        let mut model = Mortal::new(2);
        resume(&place, &mut model, &SETTINGS, json!("weights")).unwrap_err();
        assert_eq!(model.inner.calls, [4, 4]);
        // With batches of another size: the list is fixed.
        let settings = Settings {
            batch_items: 5,
            ..SETTINGS
        };
        let mut model = Mortal::new(9);
        let result = resume(&place, &mut model, &settings, json!("weights")).unwrap();
        assert_eq!(model.inner.calls, [4]);
        same(&result, &whole);
        // Everything is there: nothing is asked.
        let mut model = Mortal::new(0);
        same(
            &resume(&place, &mut model, &settings, json!("weights")).unwrap(),
            &whole,
        );
    }
}

#[test]
fn a_journal_has_ids_and_hashes_and_what_was_answered() {
    let place = place(BY_LIKELIHOOD);
    resume(
        &place,
        &mut Mortal::new(1),
        &SETTINGS,
        json!({"base": "abc"}),
    )
    .unwrap_err();
    let text = fs::read_to_string(&journals(place.0.path())[0]).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    let mut header = lines[0].clone();
    assert_eq!(header["items"].as_array().unwrap().len(), 12);
    header["items"] = header["items"][0].clone();
    insta::assert_snapshot!(serde_json::to_string_pretty(&header).unwrap(), @r#"
    {
      "journal": 1,
      "program": "0.1.0",
      "task": "questions",
      "model": "scripted",
      "settings": {
        "version": 1,
        "answering": {
          "log-likelihood": {
            "normalisation": "none",
            "before_option": ""
          }
        }
      },
      "identity": {
        "base": "abc"
      },
      "items": {
        "id": "items/1",
        "prompt_sha256": "c2a1f2e542419a941074274cf24d2c51aedf48570051dd949e12ab8f4629f45f",
        "options_sha256": "fc93c078efaebb635bf3f971ae1c2088d80cb37360de44ea3f984d98cb143a3b"
      },
      "batch_items": 4
    }
    "#);
    insta::assert_snapshot!(lines[1].to_string(), @r#"{"items":[0,1,2,3],"answers":[{"scores":[["-31.08108108108108",1,3,false],["-30.81081081081081",1,2,false],["-31.62162162162162",1,5,false]]},{"scores":[["-31.08108108108108",1,3,false],["-30.81081081081081",1,2,false],["-31.62162162162162",1,5,false]]},{"scores":[["-31.08108108108108",1,3,false],["-30.81081081081081",1,2,false],["-31.62162162162162",1,5,false]]},{"scores":[["-31.08108108108108",1,3,false],["-30.81081081081081",1,2,false],["-31.62162162162162",1,5,false]]}]}"#);
    assert!(!text.contains("Question"), "{text}");
}

#[test]
fn a_cut_last_line_is_dropped_wherever_it_was_cut() {
    let place = place(BY_LIKELIHOOD);
    let whole = resume(&place, &mut Mortal::new(9), &SETTINGS, json!(1)).unwrap();
    let path = journals(place.0.path()).remove(0);
    let bytes = fs::read(&path).unwrap();
    let ends: Vec<usize> = (0..bytes.len()).filter(|&i| bytes[i] == b'\n').collect();
    // From the end of the header to the end of the file, in odd steps.
    for cut in (ends[0] + 1..bytes.len())
        .step_by(37)
        .chain([bytes.len() - 1])
    {
        fs::write(&path, &bytes[..cut]).unwrap();
        let there = ends[1..].iter().filter(|end| **end < cut).count();
        let mut model = Mortal::new(9);
        same(
            &resume(&place, &mut model, &SETTINGS, json!(1)).unwrap(),
            &whole,
        );
        assert_eq!(model.inner.calls.len(), 3 - there, "cut at {cut}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn other_items_settings_and_models_have_other_journals() {
    let place = place(BY_LIKELIHOOD);
    resume(&place, &mut Mortal::new(1), &SETTINGS, json!("one")).unwrap_err();
    let asked = |settings: &Settings, identity: Value| {
        let mut model = Mortal::new(9);
        resume(&place, &mut model, settings, identity).unwrap();
        model.inner.calls.iter().sum::<usize>()
    };
    assert_eq!(asked(&SETTINGS, json!("two")), 12);
    let fewer = Settings {
        items: Some(6),
        ..SETTINGS
    };
    assert_eq!(asked(&fewer, json!("one")), 6);
    // The first one is as it was.
    assert_eq!(asked(&SETTINGS, json!("one")), 8);
    assert_eq!(journals(place.0.path()).len(), 3);
}

#[test]
fn finishing_removes_what_was_used_and_names_the_rest() {
    let place = place(BY_LIKELIHOOD);
    let folder = place.0.path().join("journal");
    resume(&place, &mut Mortal::new(1), &SETTINGS, json!("old")).unwrap_err();
    let old = journals(place.0.path());
    let finish = || {
        let mut journals = Journals::new(&folder);
        let mut session = Session {
            journals: Some(&mut journals),
            identity: json!("new"),
            stop: &NEVER,
        };
        let model = &mut Mortal::new(9);
        resume_task(
            &place.1,
            &place.2,
            model,
            &SETTINGS,
            &mut session,
            &mut |_| {},
        )
        .unwrap();
        let others = journals.others();
        journals.finish().unwrap();
        others
    };
    assert_eq!(finish(), old);
    assert_eq!(journals(place.0.path()), old);
    fs::remove_file(&old[0]).unwrap();
    assert_eq!(finish(), Vec::<PathBuf>::new());
    assert!(!folder.exists());
}

fn shown(error: &Error, folder: &Path) -> String {
    let text = format!("{error}\nhint: {}", error.hint().unwrap());
    let text = text.replace(&format!("{}/", folder.display()), "");
    // The hash in the name follows from the version.
    let (before, after) = text.split_once("questions-").unwrap();
    format!("{before}questions-HASH{}", &after[16..])
}

#[test]
fn journals_that_will_not_do() {
    let place = place(BY_LIKELIHOOD);
    resume(&place, &mut Mortal::new(9), &SETTINGS, json!(1)).unwrap();
    let path = journals(place.0.path()).remove(0);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let wrong = |text: String| {
        fs::write(&path, text).unwrap();
        let error = resume(&place, &mut Mortal::new(9), &SETTINGS, json!(1)).unwrap_err();
        shown(&error, place.0.path())
    };
    let with = |line: &str| [lines[0], line, lines[2], ""].join("\n");
    insta::assert_snapshot!(wrong(with("{\"items\": [0")), @"
    the journal `journal/scripted-questions-HASH.jsonl` is damaged in line 2
    hint: remove it; its items are then asked again
    ");
    let damaged = wrong(with("{\"items\": [99], \"answers\": [{\"scores\": []}]}"));
    assert!(damaged.contains("is damaged in line 2"), "{damaged}");
    let damaged = wrong(with("{\"items\": [0, 1], \"answers\": []}"));
    assert!(damaged.contains("is damaged in line 2"), "{damaged}");
    let damaged = wrong(format!(
        "{}\n",
        lines[0].replace("\"batch_items\":4", "\"batch_items\":0")
    ));
    assert!(damaged.contains("is damaged in line 1"), "{damaged}");
    assert!(wrong("no".into()).contains("is damaged in line 1"));
    insta::assert_snapshot!(wrong(text.replacen("items/1", "items/9", 1)), @"
    the journal `journal/scripted-questions-HASH.jsonl` is of another evaluation than its name says
    hint: remove it; its items are then asked again
    ");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let error = resume(&place, &mut Mortal::new(9), &SETTINGS, json!(1)).unwrap_err();
    insta::assert_snapshot!(shown(&error, place.0.path()), @"
    the journal `journal/scripted-questions-HASH.jsonl` of an evaluation
    hint: it must be a file that you may read and write
    ");
}

#[test]
fn a_stop_ends_before_the_next_batch() {
    let place = place(BY_LIKELIHOOD);
    let stop = AtomicBool::new(false);
    let mut journals = Journals::new(place.0.path().join("journal"));
    let mut session = Session {
        journals: Some(&mut journals),
        identity: json!(1),
        stop: &stop,
    };
    let mut model = Mortal::new(9);
    let result = resume_task(
        &place.1,
        &place.2,
        &mut model,
        &SETTINGS,
        &mut session,
        &mut |at| {
            stop.store(at.done >= 8, Ordering::SeqCst);
        },
    );
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Stopped { .. }));
    assert_eq!(
        error.to_string(),
        "task `questions`: stopped before its end"
    );
    assert_eq!(model.inner.calls, [4, 4]);
    let mut model = Mortal::new(9);
    resume(&place, &mut model, &SETTINGS, json!(1)).unwrap();
    assert_eq!(model.inner.calls, [4]);
}

#[test]
fn perplexity_goes_on_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let sample = |id: u32| Tokenized {
        id: id.to_string(),
        sample: u64::from(id),
        input_ids: vec![id, 3 * id + 1],
        loss_mask: vec![false, true],
    };
    let samples: Vec<_> = (0..11).map(sample).collect();
    let resume = |batches: usize, samples: &[Tokenized]| {
        let mut journals = Journals::new(folder.path().join("journal"));
        let mut session = Session {
            journals: Some(&mut journals),
            identity: json!(1),
            stop: &NEVER,
        };
        let mut model = Mortal::new(batches);
        let result = resume_perplexity(
            "validation",
            samples,
            &mut model,
            &SETTINGS,
            &mut session,
            &mut |_| {},
        );
        (result, model.inner.calls)
    };
    let whole = run_perplexity(
        "validation",
        &samples,
        &mut Mortal::new(9),
        &SETTINGS,
        &mut |_| {},
    );
    resume(1, &samples).0.unwrap_err();
    let (result, calls) = resume(9, &samples);
    assert_eq!(calls, [4, 3]);
    let (result, whole) = (result.unwrap(), whole.unwrap());
    assert_eq!(
        result.total.loss_sum.to_bits(),
        whole.total.loss_sum.to_bits()
    );
    assert_eq!(result, whole);
    // Other samples of the same names are other samples.
    let mut others = samples.clone();
    others[10].input_ids[1] += 1;
    assert_eq!(resume(9, &others).1, [4, 4, 3]);
}

#[test]
fn an_endpoint_is_asked_nothing_twice() {
    let place = place(GENERATE);
    let broken = AtomicBool::new(true);
    let broken = std::sync::Arc::new(broken);
    let state = std::sync::Arc::clone(&broken);
    let server = Server::new(move |asked| match asked.question() {
        q if q.contains("n 7:") && state.load(Ordering::SeqCst) => refusal(401, "", "expired"),
        q => chat(if q.contains("yes") { "yes" } else { "no" }),
    });
    let endpoint = || {
        let section = EndpointSection {
            concurrency: 3,
            ..EndpointSection::new("gpt", &server.url, "gpt-4")
        };
        Endpoint::new(section, None, TemplateKind::Chat, 7, &NEVER).unwrap()
    };
    let identity = || endpoint().identity().unwrap();
    resume(&place, &mut endpoint(), &SETTINGS, identity()).unwrap_err();
    let first = server.asked().len();
    assert!(first >= 8, "{first}");
    broken.store(false, Ordering::SeqCst);
    let result = resume(&place, &mut endpoint(), &SETTINGS, identity()).unwrap();
    assert_eq!(result.scores[0].value, 1.0);
    let counts = server.counts();
    for (question, count) in &counts {
        assert_eq!(
            *count,
            if question.contains("n 7:") { 2 } else { 1 },
            "{question}"
        );
    }
    assert_eq!(counts.len(), 12);
    // The same result as of one that was never interrupted, byte for byte.
    let whole = run_task(&place.1, &place.2, &mut endpoint(), &SETTINGS, &mut |_| {}).unwrap();
    same(&result, &whole);
}
