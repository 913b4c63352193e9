//! Solved examples before a question: which, in what shape, and what is refused.

use std::error::Error as _;

use datasets::{Message, Role};
use eval::{Asked, Error, Prompt, Result, Task, choose_tasks};
use ledger::AccessClass;
use tempfile::TempDir;

use crate::scripted::{folder, questions, yes_no};

const BY_LIKELIHOOD: &str = "answering = [\"log-likelihood\"]\nmetrics = [\"accuracy\"]\n";

/// Thirty training questions on as many subjects; the answers are yes, no and maybe in turn.
fn training() -> String {
    let record = |i: usize| {
        let answer = ["yes", "no", "maybe"][i % 3];
        format!(
            "{{\"question\": \"Does drug{i} help against disease{}?\", \"answer\": \"{answer}\"}}\n",
            i % 7
        )
    };
    (0..30).map(record).collect()
}

/// A folder with the task, its items and its training split; `few_shot` are lines of that table.
fn place(lines: &str, few_shot: &str, items: &str, training: &str) -> TempDir {
    let task = yes_no(&format!("{BY_LIKELIHOOD}{lines}"))
        + &format!(
            "\n[few_shot]\n{few_shot}\n[few_shot.source]\nname = \"train\"\nformat = \"records\"\npath = \"train.jsonl\"\n"
        );
    let folder = folder(&task, items);
    std::fs::write(folder.path().join("train.jsonl"), training).unwrap();
    folder
}

fn task(place: &TempDir, shots: usize) -> Result<Task> {
    Task::load(&place.path().join("task.toml"), &[])?
        .remove(0)
        .with_shots(Some(shots))
}

fn asked(place: &TempDir, shots: usize, seed: u64) -> Result<Asked> {
    task(place, shots)?.asked(place.path(), seed, &mut |_| true)
}

fn messages(prompt: &Prompt) -> &[Message] {
    match prompt {
        Prompt::Chat(messages) => messages,
        Prompt::Text(text) => panic!("{text}"),
    }
}

/// What the assistant says in a prompt: the answers of its shots.
fn answers(prompt: &Prompt) -> Vec<&str> {
    let said = messages(prompt)
        .iter()
        .filter(|m| m.role == Role::Assistant);
    said.map(|message| message.content.as_str()).collect()
}

fn shown(error: &Error) -> String {
    let mut text = error.to_string();
    if let Some(cause) = error.source() {
        text.push_str(&format!("\ncaused by: {cause}"));
    }
    if let Some(hint) = error.hint() {
        text.push_str(&format!("\nhint: {hint}"));
    }
    text
}

#[test]
fn shots_are_turns_before_the_question() {
    let place = place("", "", &questions(), &training());
    let task = task(&place, 3).unwrap();
    assert_eq!(
        (task.name.as_str(), task.family.as_str()),
        ("questions@3", "questions")
    );
    let asked = task.asked(place.path(), 5, &mut |_| true).unwrap();
    let roles: Vec<Role> = messages(&asked.items[0].prompt)
        .iter()
        .map(|m| m.role)
        .collect();
    use Role::{Assistant, System, User};
    assert_eq!(
        roles,
        [
            System, User, Assistant, User, Assistant, User, Assistant, User
        ]
    );
    for (item, plain) in asked.items.iter().zip(task.items(place.path()).unwrap()) {
        let (shown, question) = (messages(&item.prompt), messages(&plain.prompt));
        assert_eq!(shown.last(), question.last());
        assert_eq!((&item.id, &item.gold), (&plain.id, &plain.gold));
        for turn in shown[1..7].chunks(2) {
            let record = turn[0].content.strip_prefix("Does drug").unwrap();
            let number: usize = record.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(turn[1].content, ["yes", "no", "maybe"][number % 3]);
        }
    }
    let report = asked.shots.unwrap();
    assert_eq!(
        (report.shots, report.candidates, report.dropped),
        (3, 30, 0)
    );
    assert_eq!(report.line(), None);
}

#[test]
fn the_seed_and_the_items_id_choose_the_shots() {
    let prompts = |place: &TempDir, seed| -> Vec<Prompt> {
        let items = asked(place, 3, seed).unwrap().items;
        items.into_iter().map(|item| item.prompt).collect()
    };
    for selection in ["random", "stratified"] {
        let lines = format!("selection = \"{selection}\"");
        let all = place("", &lines, &questions(), &training());
        let first = prompts(&all, 5);
        assert_eq!(first, prompts(&all, 5));
        assert_ne!(first, prompts(&all, 6));
        assert_ne!(messages(&first[0])[1..7], messages(&first[1])[1..7]);
        // What else is asked changes nothing.
        let few: String = questions()
            .lines()
            .take(4)
            .map(|l| format!("{l}\n"))
            .collect();
        let few = place("", &lines, &few, &training());
        assert_eq!(prompts(&few, 5), first[..4]);
    }
}

#[test]
fn stratified_shots_have_each_answer_once() {
    let place = place("", "selection = \"stratified\"", &questions(), &training());
    let items = asked(&place, 3, 1).unwrap().items;
    let mut orders = std::collections::BTreeSet::new();
    for item in &items {
        let mut said = answers(&item.prompt);
        orders.insert(said.clone());
        said.sort_unstable();
        assert_eq!(said, ["maybe", "no", "yes"]);
    }
    assert!(orders.len() > 1, "one order for all tells the next answer");
}

#[test]
fn bm25_shows_the_nearest_question_last() {
    let items = r#"{"question": "Would drug11 help with disease2 or disease3?", "answer": "no"}"#;
    let place = place("", "selection = \"bm25\"", items, &training());
    let asked = asked(&place, 2, 1).unwrap();
    let shown = messages(&asked.items[0].prompt);
    assert_eq!(shown[3].content, "Does drug11 help against disease4?");
    assert!(shown[1].content.ends_with("disease2?") || shown[1].content.ends_with("disease3?"));
}

#[test]
fn inline_shots_are_text() {
    let first = |lines: &str, few_shot: &str| {
        let place = place(lines, few_shot, &questions(), &training());
        asked(&place, 2, 3).unwrap().items.remove(0).prompt
    };
    let Prompt::Text(text) = first("chat_template = false", "") else {
        panic!("a text")
    };
    insta::assert_snapshot!(text, @"
    Answer the question.

    Does drug18 help against disease4? yes

    Does drug14 help against disease0? maybe

    Question 0: yes?
    ");
    let chat = first("", "layout = \"inline\"");
    let [system, user] = messages(&chat) else {
        panic!("two messages")
    };
    assert_eq!(text, format!("{}\n\n{}", system.content, user.content));
}

#[test]
fn shots_can_be_asked_in_their_own_way() {
    let place = place("", "", &questions(), &training());
    let path = place.path().join("task.toml");
    let own = std::fs::read_to_string(&path).unwrap()
        + "[few_shot.source.task]\nprompt = \"Q: {{ question }}\"\nanswer = \"It is so: {{ answer }}\"\n";
    std::fs::write(&path, own).unwrap();
    let asked = asked(&place, 1, 3).unwrap();
    let shown = messages(&asked.items[0].prompt);
    assert!(shown[1].content.starts_with("Q: Does drug"));
    assert!(shown[2].content.starts_with("It is so: "));
    assert_eq!(shown[3].content, "Question 0: yes?");
}

#[test]
fn what_would_be_too_long_loses_its_farthest_shots() {
    let place = place("", "selection = \"bm25\"", &questions(), &training());
    let task = task(&place, 3).unwrap();
    let whole = task.asked(place.path(), 1, &mut |_| true).unwrap();
    // Room for two shots, for none with one item.
    let mut fits = |prompt: &Prompt| {
        let (length, text) = (messages(prompt).len(), prompt.text());
        length <= 6 && !(text.ends_with("Question 7: no?") && length > 2)
    };
    let cut = task.asked(place.path(), 1, &mut fits).unwrap();
    for (index, (cut, whole)) in cut.items.iter().zip(&whole.items).enumerate() {
        let (cut, whole) = (messages(&cut.prompt), messages(&whole.prompt));
        let kept = if index == 7 { 0 } else { 2 };
        assert_eq!(cut[1..], whole[1 + 2 * (3 - kept)..]);
    }
    let report = cut.shots.unwrap();
    assert_eq!((report.shortened_items, report.dropped), (12, 11 + 3));
    insta::assert_snapshot!(report.line().unwrap(), @"questions@3: 14 shots left out, as the prompts of 12 items would be too long");
}

#[test]
fn a_test_that_is_its_own_training_split_is_refused() {
    let refused = |training: &str| {
        let place = place("", "", &questions(), training);
        shown(&asked(&place, 3, 1).unwrap_err())
    };
    insta::assert_snapshot!(refused(&questions()), @"
    task `questions@3`: the training split `train` is not apart from the test: 12 of the 12 items asked are among its 12 records, word for word
    hint: take [few_shot.source] from a split of its own; the hosted copies of some sets have their test as train
    ");
    // Other case, other space, and an answer that is not the test's.
    let two: String = questions()
        .lines()
        .take(2)
        .map(|line| {
            line.to_uppercase()
                .replace("QUESTION\":", "question\":")
                .replace("ANSWER\": \"YES", "answer\": \"no")
                + "\n"
        })
        .collect();
    let two = two
        .replace("\"QUESTION", "\"question")
        .replace("0: YES", "0:  YES");
    insta::assert_snapshot!(refused(&(training() + &two)), @"
    task `questions@3`: the training split `train` is not apart from the test: 2 of the 12 items asked are among its 32 records, word for word
    hint: take [few_shot.source] from a split of its own; the hosted copies of some sets have their test as train
    ");
}

/// Half of the items are a sentence that the training split has again and again.
#[test]
fn phrases_of_the_trade_are_no_leak() {
    let phrase = "{\"question\": \"The lungs are clear. Is it so?\", \"answer\": \"yes\"}\n";
    let items: String = questions()
        .lines()
        .take(4)
        .map(|l| format!("{l}\n"))
        .collect();
    let items = items + &phrase.repeat(4);
    let often = place("", "", &items, &(training() + &phrase.repeat(5)));
    let report = asked(&often, 3, 1).unwrap().shots.unwrap();
    assert_eq!((report.shared_items, report.copied_items), (0, 4));
    let no_more = place("", "", &items, &(training() + &phrase.repeat(4)));
    let error = asked(&no_more, 3, 1).unwrap_err();
    assert!(
        matches!(
            error,
            Error::ShotsFromTest {
                shared: 4,
                items: 8,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn an_item_never_sees_its_own_copy() {
    let story = "A woman of 54 with fever, cough and swollen nodes of both hila comes to the clinic after a journey; \
                 is her angiotensin converting enzyme raised";
    let item = |end: &str, answer| {
        format!("{{\"question\": \"{story}{end}?\", \"answer\": \"{answer}\"}}\n")
    };
    let related = "{\"question\": \"Is a raised angiotensin converting enzyme usual with swollen nodes?\", \"answer\": \"yes\"}\n";
    let items = questions() + &item(" today", "yes") + related;
    let training = training() + &item(", in your view", "no");
    let place = place("", "selection = \"bm25\"", &items, &training);
    let asked = asked(&place, 2, 1).unwrap();
    let shows = |item: &eval::Item| {
        let turns = messages(&item.prompt);
        turns[..turns.len() - 1]
            .iter()
            .any(|m| m.content.contains("hila"))
    };
    assert!(!shows(&asked.items[12]));
    assert!(shows(&asked.items[13]));
    let report = asked.shots.unwrap();
    assert_eq!((report.candidates, report.copied_items), (31, 1));
    insta::assert_snapshot!(report.line().unwrap(), @"questions@2: 1 items have near copies in the training split, which they are not shown");
}

/// Two answers to choose from, one of which is the item's own.
#[test]
fn an_item_may_have_fewer_shots_than_others() {
    let story = "A woman of 54 with fever, cough and swollen nodes of both hila comes to the clinic after a journey";
    let items = questions() + &format!("{{\"question\": \"{story}\", \"answer\": \"yes\"}}\n");
    let training = "{\"question\": \"Does drug1 help?\", \"answer\": \"no\"}\n".to_owned()
        + &format!("{{\"question\": \"{story}, why?\", \"answer\": \"yes\"}}\n");
    let place = place("", "", &items, &training);
    let asked = asked(&place, 2, 1).unwrap();
    assert_eq!(answers(&asked.items[0].prompt).len(), 2);
    assert_eq!(answers(&asked.items[12].prompt), ["no"]);
    let report = asked.shots.unwrap();
    assert_eq!((report.lacking_items, report.dropped), (1, 0));
    let line = report.line().unwrap();
    assert!(
        line.ends_with("; 1 of them are shown fewer shots"),
        "{line}"
    );
}

#[test]
fn shots_can_be_held_to_the_items_own_field() {
    let record = |i: usize| {
        let subject = ["heart", "lung"][i % 2];
        format!(
            "{{\"question\": \"{subject} {i}?\", \"answer\": \"yes\", \"subject\": \"{subject}\"}}\n"
        )
    };
    let items: String = (0..6).map(record).collect();
    let training: String = (100..110).map(record).collect();
    let place = place("", "same = \"subject\"", &items, &training);
    for item in asked(&place, 5, 1).unwrap().items {
        let text = item.prompt.text();
        let counts = ["heart", "lung"].map(|subject| text.matches(subject).count());
        assert!(counts == [6, 0] || counts == [0, 6], "{counts:?}");
    }
    insta::assert_snapshot!(shown(&asked(&place, 6, 1).unwrap_err()), @"
    task `questions@6`, item `items/1`: 6 shots are asked for, and the training split `train` has 5 that it may be shown
    hint: ask for fewer shots, or check the path and the split in [few_shot.source]
    ");
    let path = place.path().join("task.toml");
    let other = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, other.replace("\"subject\"", "\"topic\"")).unwrap();
    let error = shown(&asked(&place, 1, 1).unwrap_err());
    assert!(
        error.contains("topic") && error.contains("items/1"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_shown_is_named() {
    let fails = |lines: &str, few_shot: &str, training: &str| {
        let place = place(lines, few_shot, &questions(), training);
        let error = asked(&place, 3, 1).unwrap_err();
        shown(&error).replace(&format!("{}/", place.path().display()), "")
    };
    let two: String = training()
        .lines()
        .take(2)
        .map(|l| format!("{l}\n"))
        .collect();
    let unanswered = two.clone() + "{\"question\": \"Does drug99 help?\", \"answer\": \" \"}\n";
    insta::assert_snapshot!(fails("", "", &unanswered), @"
    task `questions@3`, item `items/1`: 3 shots are asked for, and the training split `train` has 2 that it may be shown
    hint: ask for fewer shots, or check the path and the split in [few_shot.source]
    ");
    insta::assert_snapshot!(fails("", "", ""), @"
    task `questions@3`, item `items/1`: 3 shots are asked for, and the training split `train` has 0 that it may be shown
    hint: ask for fewer shots, or check the path and the split in [few_shot.source]
    ");
    insta::assert_snapshot!(fails("", "", "{\"query\": 1}"), @"
    task `questions@3`
    caused by: sample train/1 (train.jsonl, record 1): template task.prompt, line 1: undefined value: `question` is undefined
    hint: the record's fields are query
    ");
    insta::assert_snapshot!(fails("chat_template = false", "layout = \"multi-turn\"", &two), @r#"
    task `questions`: `few_shot.layout` is "multi-turn", and `chat_template` is false
    hint: write `layout = "inline"`
    "#);
    insta::assert_snapshot!(fails("", "selection = \"nearest\"\nnumber = 3", &two), @r#"
    the recipe has 2 problems
    task.toml:19:13: `few_shot.selection` is the string "nearest", expected one of `random`, `stratified`, `bm25`
    task.toml:20:1: unknown key `number` in [few_shot]
      hint: known keys: `count`, `same`, `layout`
    "#);

    for selection in ["random", "stratified", "bm25"] {
        let place = place(
            "",
            &format!("selection = \"{selection}\""),
            &questions(),
            &two,
        );
        let error = asked(&place, usize::MAX, 1).unwrap_err();
        assert!(
            matches!(error, Error::TooFewShots { found: 2, .. }),
            "{error}"
        );
    }

    let free = yes_no("answering = [\"generate\"]\nmetrics = [\"exact_match\"]")
        .replace("options.fixed = [\"yes\", \"no\", \"maybe\"]", "");
    let source =
        "[few_shot.source]\nname = \"train\"\nformat = \"records\"\npath = \"train.jsonl\"\n";
    let load = |text: &str| {
        let place = folder(text, &questions());
        let tasks = Task::load(&place.path().join("task.toml"), &[]);
        shown(
            &tasks
                .and_then(|mut tasks| tasks.remove(0).with_shots(Some(3)))
                .unwrap_err(),
        )
    };
    insta::assert_snapshot!(load(&format!("{free}\n[few_shot]\nselection = \"stratified\"\n{source}")), @r#"
    task `questions`: `few_shot.selection` is "stratified", and the task has no options to spread shots over
    hint: write `selection = "random"` or `"bm25"`
    "#);
    insta::assert_snapshot!(load(&free), @"
    task `questions`: 3 shots are asked for, and it has no [few_shot]
    hint: name a training split in a [few_shot.source], or ask this task with `NAME@0`
    ");
}

#[test]
fn tables_that_are_none_are_named_with_their_lines() {
    let load = |tables: &str| {
        let task = yes_no(BY_LIKELIHOOD) + tables;
        let place = folder(&task, &questions());
        let error = Task::load(&place.path().join("task.toml"), &[]).unwrap_err();
        shown(&error).replace(&format!("{}/", place.path().display()), "")
    };
    insta::assert_snapshot!(load("[few_shot]\ncount = -1\n"), @"
    the recipe has 2 problems
    task.toml:17:1: [few_shot] lacks `source`
      hint: `source`: The training split that they come from, asked as the task's own records are
    task.toml:18:9: `few_shot.count` is the integer `-1`, and must be at least 0
    ");
    insta::assert_snapshot!(load(
        "[few_shot.source]\nname = \"train\"\nformat = \"recods\"\npath = 3\n"
    ), @r#"
    the recipe has 2 problems
    task.toml:19:10: `few_shot.source.format` is the string "recods", expected one of `alpaca`, `messages`, `sharegpt`, `prompt-completion`, `text`, `pubmedqa`, `records`, `csv`, `tsv`, `xlsx`, `parquet`, `medqa`, `medmcqa`, `mmlu`, `hoc`, `ddi-blue`, `mednli`, `bionli`, `emrqa`, `mtsamples`, `truthfulqa`, `pubmed-summarization`, `mslr`, `medquad`, `liveqa`, `liveqa-test`, `mediqa-qa`, `mediqa-rqe`, `ddi2013`, `i2b2-2012`, `iob`, `brat`, `medline`, `jats`, `umls-relations`, `umls-concepts`, `mimic-iii-notes`, `mimic-iv-notes`, `mimic-cxr`, `mimic-cxr-sectioned`
      hint: did you mean `records`?
    task.toml:20:8: `few_shot.source.path` is the integer `3`, expected a string
      hint: put it in quotes
    "#);
    insta::assert_snapshot!(load("[published]\ndataset = \"PubMedQA\"\nsplits = \"test\"\nitems = 0.5\n"), @"
    the recipe has 2 problems
    task.toml:19:1: unknown key `splits` in [published]
      hint: did you mean `split`?
    task.toml:20:9: `published.items` is the number `0.5`, expected an integer
    ");
}

#[test]
fn shots_are_as_confidential_as_their_split() {
    let place = place("", "", &questions(), &training());
    let path = place.path().join("task.toml");
    let text = std::fs::read_to_string(&path).unwrap() + "access = \"credentialed\"\n";
    std::fs::write(&path, text).unwrap();
    let class = |shots| asked(&place, shots, 1).unwrap().items[0].access;
    assert_eq!(class(1), AccessClass::Credentialed);
    assert_eq!(class(0), AccessClass::Open);
}

#[test]
fn recipes_say_how_many_shots() {
    let place = place("", "count = 2", &questions(), &training());
    std::fs::create_dir_all(place.path().join("tasks/suite")).unwrap();
    let text = std::fs::read_to_string(place.path().join("task.toml")).unwrap();
    std::fs::write(place.path().join("tasks/suite/questions.toml"), &text).unwrap();
    let both = text
        .replace("[\"log-likelihood\"]", "[\"log-likelihood\", \"generate\"]")
        .replace("\"questions\"", "\"others\"");
    std::fs::write(place.path().join("tasks/suite/others.toml"), both).unwrap();
    let folders = [place.path().join("tasks")];
    let names = |choices: &[&str]| {
        let choices: Vec<String> = choices.iter().map(|c| c.to_string()).collect();
        let chosen = choose_tasks(&choices, place.path(), &folders)?;
        let named = chosen.into_iter().map(|chosen| match chosen.limit {
            Some(limit) => format!("{}:{limit}", chosen.task.name),
            None => chosen.task.name,
        });
        Result::Ok(named.collect::<Vec<_>>().join(" "))
    };
    assert_eq!(
        names(&["questions", "questions@0", "questions@3:5"]).unwrap(),
        "questions@2 questions questions@3:5"
    );
    assert_eq!(
        names(&["suite@1:7"]).unwrap(),
        "others@1:7 others-generate@1:7 questions@1:7"
    );
    // A name asks the task that has it, a path all of its file.
    assert_eq!(
        names(&["others@0", "others-generate@0"]).unwrap(),
        "others others-generate"
    );
    assert_eq!(
        names(&["tasks/suite/others.toml"]).unwrap(),
        "others@2 others-generate@2"
    );
    assert!(matches!(
        names(&["suite", "questions@2"]),
        Err(Error::TaskTwice { .. })
    ));
    insta::assert_snapshot!(shown(&names(&["questions-generate"]).unwrap_err()), @"
    there is no task `questions-generate`
    hint: did you mean `questions`?
    ");
    insta::assert_snapshot!(shown(&names(&["questions@few"]).unwrap_err()), @"
    task `questions@few`: `few` is not a number of shots
    hint: write `name@3` for three shots, `name` for as many as the recipe says
    ");
}
