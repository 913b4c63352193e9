//! The published sets that have formats of their own: the fields that recipes
//! name, and what is wrong with records that are not so.

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::{folder, outcomes, read_all, reading_fails, source};

fn fixture(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/tables")
        .join(path)
}

/// The records of a file in `tests/data/tables`.
fn read(path: &str, section: Value) -> Vec<Value> {
    let mut section = source(section);
    section.path = path.into();
    let records = read_all(&section, &fixture("")).unwrap();
    records
        .into_iter()
        .map(|r| Value::Object(r.fields))
        .collect()
}

fn fails(name: &str, text: &str, section: Value) -> String {
    reading_fails(name, text.as_bytes(), section)
}

#[test]
fn medqa_reads_the_authors_and_yales_files_alike() {
    let (lines, mut table) = (
        read("medqa.jsonl", json!({"format": "medqa"})),
        read("medqa.tsv", json!({"format": "medqa"})),
    );
    for (number, row) in table.iter_mut().enumerate() {
        let index = row.as_object_mut().unwrap().shift_remove("index");
        assert_eq!(index, Some(number.to_string().into()));
    }
    assert_eq!(table, lines);
    assert_snapshot!(serde_json::to_string_pretty(&lines[1]).unwrap(), @r#"
    {
      "meta_info": "step2&3",
      "question": "A made-up man says \"it hurts\".\nWhat is next?",
      "answer_idx": "C",
      "answer": "The patient's \"own\" choice\n",
      "options": [
        {
          "key": "A",
          "value": "Rest"
        },
        {
          "key": "B",
          "value": "It's nothing"
        },
        {
          "key": "C",
          "value": "The patient's \"own\" choice\n"
        },
        {
          "key": "D",
          "value": "5\\6"
        },
        {
          "key": "E",
          "value": "None"
        }
      ],
      "options_text": "A. Rest\nB. It's nothing\nC. The patient's \"own\" choice\n\nD. 5\\6\nE. None"
    }
    "#);
}

#[test]
fn medqa_names_what_is_wrong() {
    let header = "question\toptions\tanswer_idx\n";
    let options = "[{'key': 'A', 'value': 'x'}, {'key': 'B', 'value': 'y'}]";
    let medqa = || json!({"format": "medqa"});
    assert_snapshot!(fails("a.tsv", &format!("{header}why?\t[{{'key': secret}}]\tA\n"), medqa()), @r#"
    sample 2 (a.tsv, record 2): field "options" should be a Python list of {'key', 'value'}, found no list, dict or string at byte 9
    hint: on_bad_record = "drop" leaves such records out and lists them
    "#);
    assert_snapshot!(fails("a.tsv", &format!("{header}why?\t['A', 'B']\tA\n"), medqa()), @r#"
    sample 2 (a.tsv, record 2): field "options" should be a list or an object of options, found a string
    hint: the record has question, options, answer_idx
    "#);
    assert_snapshot!(fails("a.tsv", &format!("{header}why?\t{options}\tE\n"), medqa()), @r#"
    sample 2 (a.tsv, record 2): field "answer_idx" should be one of the options A, B, found "E"
    hint: on_bad_record = "drop" leaves such records out and lists them
    "#);
    assert_snapshot!(fails("a.tsv", &format!("{header}why?\t{options}\ta whole secret sentence\n"), medqa()), @r#"
    sample 2 (a.tsv, record 2): field "answer_idx" should be one of the options A, B, found a text of 23 bytes
    hint: on_bad_record = "drop" leaves such records out and lists them
    "#);
    assert_snapshot!(fails("a.jsonl", "{\"question\": \"why?\", \"answer_idx\": \"A\"}", medqa()), @r#"
    sample 1 (a.jsonl, record 1): field "options" should be a list or an object of options, but is missing
    hint: the record has question, answer_idx
    "#);
    assert_snapshot!(fails("a.tsv", "question\tchoices\tanswer_idx\n", medqa()), @r#"
    a.tsv:1: there is no column "options"
    hint: the columns are question, choices, answer_idx
    "#);
}

fn medmcqa(cop: i64) -> String {
    let mut row = json!({"question": "why?", "exp": null, "opa": "w", "opb": "x", "opc": 7, "opd": "z",
        "subject_name": "Anatomy", "topic_name": null, "id": "i-1", "choice_type": "single"});
    row["cop"] = cop.into();
    row.to_string()
}

#[test]
fn medmcqa_counts_options_as_the_recipe_says() {
    let answer = |cop, first: u8| {
        let root = folder([("data.jsonl", medmcqa(cop).as_bytes())]);
        let section = source(json!({"format": "medmcqa", "first_option": first}));
        let record = read_all(&section, root.path()).unwrap().remove(0);
        let text = |name| record.text(name).unwrap().to_string();
        (
            text("answer_idx"),
            text("answer"),
            text("options_text"),
            text("exp"),
        )
    };
    let lines = "A. w\nB. x\nC. 7\nD. z".to_string();
    assert_eq!(
        answer(1, 0),
        ("B".into(), "x".into(), lines.clone(), String::new())
    );
    assert_eq!(answer(1, 1), ("A".into(), "w".into(), lines, String::new()));
    let fails = |cop, section| fails("a.jsonl", &medmcqa(cop), section);
    assert_snapshot!(fails(1, json!({"format": "medmcqa"})), @r"
    source s: the records' `cop` counts the options from 0 or from 1, and first_option does not say which
    hint: set first_option = 0 for Hugging Face's copy, or 1 for the authors' own JSON
    ");
    assert_snapshot!(fails(1, json!({"format": "medmcqa", "first_option": 2})), @r"
    source s: first_option = 2 is neither 0 nor 1
    hint: set first_option = 0 for Hugging Face's copy, or 1 for the authors' own JSON
    ");
    assert_snapshot!(fails(4, json!({"format": "medmcqa", "first_option": 0})), @r#"
    sample 1 (a.jsonl, record 1): field "cop" should be from 0 to 3, found 4
    hint: on_bad_record = "drop" leaves such records out and lists them
    "#);
    assert_snapshot!(fails(0, json!({"format": "medmcqa", "first_option": 1})), @r#"
    sample 1 (a.jsonl, record 1): field "cop" should be from 1 to 4, found 0
    hint: on_bad_record = "drop" leaves such records out and lists them
    "#);
    assert_snapshot!(fails(-1, json!({"format": "medmcqa", "first_option": 0})), @r#"
    sample 1 (a.jsonl, record 1): field "cop" should be from 0 to 3, found -1
    hint: on_bad_record = "drop" leaves such records out and lists them
    "#);
}

#[test]
fn medmcqa_reads_the_reduced_lines_too() {
    let lines = "{\"question\": \"why?\", \"choices\": [\"A. w\", \"B. x\", \"C. y\", \"D. z\"], \"answer\": 2}\n\
        {\"question\": \"how?\", \"choices\": [\"A. w\", \"B. x\", \"y\", \"D. z\"], \"answer\": 2}\n\
        {\"question\": \"how?\", \"choices\": [\"A. w\", \"B. x\", \"C. y\", \"D. z\"], \"answer\": -1}";
    let root = folder([("data.jsonl", lines.as_bytes())]);
    let section = source(json!({"format": "medmcqa", "on_bad_record": "drop"}));
    assert_snapshot!(outcomes(&section, root.path()), @r#"
    s/1 {"question":"why?","choices":["A. w","B. x","C. y","D. z"],"answer":"y","options":[{"key":"A","value":"w"},{"key":"B","value":"x"},{"key":"C","value":"y"},{"key":"D","value":"z"}],"options_text":"A. w\nB. x\nC. y\nD. z","answer_idx":"C","exp":"","subject_name":"","topic_name":"","id":""}
    sample 2 (data.jsonl, record 2): field "choices" should be four choices that begin with "A. " to "D. ", found 4 choices that do not
    hint: on_bad_record = "drop" leaves such records out and lists them
    sample 3 (data.jsonl, record 3): field "answer" should be from 0 to 3, found -1
    hint: on_bad_record = "drop" leaves such records out and lists them
    "#);
}

#[test]
fn mmlu_takes_its_subject_from_the_file() {
    let root = folder([
        (
            "dev/college_biology_dev.csv",
            b"\"What, \"\"if\"\"?\",1,2,3,4,C\n".as_slice(),
        ),
        ("dev/anatomy_dev.csv", b"why?,a,b,c,d,E\n"),
    ]);
    let section = source(json!({"format": "mmlu", "path": "dev", "on_bad_record": "drop"}));
    assert_snapshot!(outcomes(&section, root.path()), @r#"
    sample 1 (dev/anatomy_dev.csv, record 1): field "answer" should be one of the options A, B, C, D, found "E"
    hint: on_bad_record = "drop" leaves such records out and lists them
    s/college_biology_dev.csv/1 {"question":"What, \"if\"?","answer":"3","options":[{"key":"A","value":"1"},{"key":"B","value":"2"},{"key":"C","value":"3"},{"key":"D","value":"4"}],"options_text":"A. 1\nB. 2\nC. 3\nD. 4","answer_idx":"C","subject":"college_biology"}
    "#);
}

#[test]
fn hoc_and_ddi_read_their_labels() {
    let hoc = "pmid\ttext\tlabels\n1\t\"The \"\"high-risk\"\" type .\"\tresisting cell death;inducing angiogenesis\n2\tx\t\n";
    let ddi = "index\tsentence\tlabel\nd0.p0\t\"@DRUG$\" and @DRUG$.\tDDI-int\nd0.p1\tx\tint\n";
    let root = folder([("hoc.tsv", hoc.as_bytes()), ("ddi.tsv", ddi.as_bytes())]);
    assert_snapshot!(outcomes(&source(json!({"format": "hoc", "path": "hoc.tsv"})), root.path()), @r#"
    s/2 {"pmid":"1","text":"The \"high-risk\" type .","labels":["resisting cell death","inducing angiogenesis"],"labels_text":"resisting cell death; inducing angiogenesis"}
    s/3 {"pmid":"2","text":"x","labels":[],"labels_text":""}
    "#);
    let ddi = source(json!({"format": "ddi-blue", "path": "ddi.tsv", "on_bad_record": "drop"}));
    assert_snapshot!(outcomes(&ddi, root.path()), @r#"
    s/2 {"index":"d0.p0","sentence":"\"@DRUG$\" and @DRUG$.","label":"DDI-int"}
    sample 3 (ddi.tsv, record 3): field "label" should be DDI-advise, DDI-effect, DDI-false, DDI-int, DDI-mechanism, found "int"
    hint: on_bad_record = "drop" leaves such records out and lists them
    "#);
}

#[test]
fn inference_sets_name_their_labels() {
    let pair = |label: &str| {
        format!(
            "{{\"gold_label\": \"{label}\", \"pairID\": \"7\", \"sentence1\": \"p\", \"sentence2\": \"h\"}}\n"
        )
    };
    let mednli = pair("neutral") + &pair("-") + &pair("maybe");
    let bionli = "supp_set,conclusion,abstract,label_cat,ori_conclusion,pmid,index\np,h,a,pos,h,1,0\np,h2,a,swap_number,h,1,1\np,h2,a,,h,1,2\n";
    let root = folder([("a.jsonl", mednli.as_bytes()), ("a.csv", bionli.as_bytes())]);
    let section =
        |format, path| source(json!({"format": format, "path": path, "on_bad_record": "drop"}));
    assert_snapshot!(outcomes(&section("mednli", "a.jsonl"), root.path()), @r#"
    s/1 {"gold_label":"neutral","pairID":"7","sentence1":"p","sentence2":"h"}
    sample 2 (a.jsonl, record 2): no gold label
    hint: on_bad_record = "drop" leaves such records out and lists them
    sample 3 (a.jsonl, record 3): field "gold_label" should be entailment, contradiction, neutral, found "maybe"
    hint: on_bad_record = "drop" leaves such records out and lists them
    "#);
    assert_snapshot!(outcomes(&section("bionli", "a.csv"), root.path()), @r#"
    s/2 {"supp_set":"p","conclusion":"h","abstract":"a","label_cat":"pos","ori_conclusion":"h","pmid":"1","index":"0","premise":"p","hypothesis":"h","label":"entailment"}
    s/3 {"supp_set":"p","conclusion":"h2","abstract":"a","label_cat":"swap_number","ori_conclusion":"h","pmid":"1","index":"1","premise":"p","hypothesis":"h2","label":"contradiction"}
    sample 4 (a.csv, record 4): field "label_cat" should be a category, found nothing
    hint: on_bad_record = "drop" leaves such records out and lists them
    "#);
}

#[test]
fn emrqa_gives_one_row_a_question() {
    let section = source(json!({"format": "emrqa", "path": "emrqa.json", "on_bad_record": "drop"}));
    assert_snapshot!(outcomes(&section, &fixture("")), @r#"
    s/1 {"title":"medication","note_id":"17","context":"ADMISSION DATE :\nThe invented patient takes alphamol 5 mg daily .","question":"What is the dose of alphamol?","answers":["5 mg"],"paraphrases":["What is the dose of alphamol?","How much alphamol?"],"answer":"5 mg","evidence":["The invented patient takes alphamol 5 mg daily ."],"answer_type":"single"}
    sample 2 (emrqa.json, record 2): field "question" should be one paraphrase or more, found none
    hint: on_bad_record = "drop" leaves such records out and lists them
    sample 3 (emrqa.json, record 3): field "context" should be a text or a list of lines, but is missing
    hint: the record has note_id, qas
    s/4 {"title":"relations","note_id":"9","context":"One line.","question":"Why?","answers":["a","b"],"paraphrases":["Why?"],"answer":"a","evidence":["line a","line b","line c"],"answer_type":"complex"}
    sample 5 (emrqa.json, record 5): field "answers" should be a list of answers, but is missing
    hint: the record has title, note_id, context, question
    "#);
    let squad = json!({"context": "Aspirin was given.", "question": "What?",
        "answers": {"text": ["Aspirin", "aspirin"], "answer_start": [0, 0]}});
    let root = folder([("a.jsonl", squad.to_string().as_bytes())]);
    let section = source(json!({"format": "emrqa", "path": "a.jsonl"}));
    assert_snapshot!(outcomes(&section, root.path()), @r#"s/1 {"context":"Aspirin was given.","question":"What?","answers":["Aspirin","aspirin"],"paraphrases":["What?"],"answer":"Aspirin","evidence":[],"answer_type":"","title":"","note_id":""}"#);
    let emrqa = || json!({"format": "emrqa"});
    assert_snapshot!(fails("a.json", "{\"version\": 1}", emrqa()), @r#"
    a.json:1: expected a JSON object with a list of groups, found no "data" in it
    hint: check the source's format
    "#);
    assert_snapshot!(fails("a.json", "{\"data\": {}}", emrqa()), @r"
    a.json:1: not valid JSON: expected a list of groups, found something else
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    ");
    assert_snapshot!(fails("a.json", "{\"data\": [{\"title\": \"risk\", \"paragraphs\": [{\"context\": \"sec", emrqa()), @r"
    a.json:1: not valid JSON: expected the rest of the record, found the end of the file
    hint: each line must be one whole JSON object (or the file one JSON array); a file cut short ends in half a record
    ");
}

#[test]
fn other_tables_are_read_as_published() {
    let mtsamples = ",description,medical_specialty,sample_name,transcription,keywords\n0, A man., Surgery, Knee ,\"PLAN:,  Rest.\",\"surgery, knee\"\n1, A woman., Surgery,Knee,\"PLAN:,  Re";
    let truthfulqa = "Type,Category,Question,Best Answer,Best Incorrect Answer,Correct Answers,Incorrect Answers,Source\nAdversarial,Myths,Why?,Because,No,Because; It is so;,No; Never,x\n";
    let root = folder([
        ("m.csv", mtsamples.as_bytes()),
        ("t.csv", truthfulqa.as_bytes()),
    ]);
    let section =
        |format, path| source(json!({"format": format, "path": path, "on_bad_record": "drop"}));
    assert_snapshot!(outcomes(&section("mtsamples", "m.csv"), root.path()), @r#"
    s/2 {"index":"0","description":"A man.","medical_specialty":"Surgery","sample_name":"Knee","transcription":"PLAN:,  Rest.","keywords":"surgery, knee"}
    m.csv:3: the quotation mark that opens cell 5 is never closed
    hint: is the file cut short? A quotation mark inside a quoted cell is written twice
    "#);
    assert_snapshot!(outcomes(&section("truthfulqa", "t.csv"), root.path()), @r#"s/2 {"type":"Adversarial","category":"Myths","question":"Why?","best_answer":"Because","best_incorrect_answer":"No","correct_answers":["Because","It is so"],"incorrect_answers":["No","Never"],"source":"x","mc1_options":["Because","No","Never"],"mc2_options":["Because","It is so","No","Never"]}"#);
}

#[test]
fn summaries_have_a_source_and_a_target() {
    let authors = json!({"article_id": "1", "article_text": ["one .", " two ."], "abstract_text": ["<S> a . </S>", "<S> b . </S>"]});
    let copy = json!({"article": "one .\ntwo .", "abstract": " a . \n b ."});
    let lines = format!("{authors}\n{copy}");
    let mslr = json!({"docid": "1", "sha": "x", "preface": "p", "target": "t", "references": [{"title_abstract": "a"}, {"title_abstract": "b"}]});
    let bad = json!({"docid": "1", "preface": "p", "target": "t", "references": ["secret"]});
    let reviews = format!("{mslr}\n{bad}");
    let root = folder([
        ("p.jsonl", lines.as_bytes()),
        ("m.jsonl", reviews.as_bytes()),
    ]);
    let pubmed = source(json!({"format": "pubmed-summarization", "path": "p.jsonl"}));
    let records = read_all(&pubmed, root.path()).unwrap();
    for record in records {
        assert_eq!(record.text("src").unwrap(), "one . two .");
        assert_eq!(record.text("tgt").unwrap(), "a . b .");
    }
    let mslr = source(json!({"format": "mslr", "path": "m.jsonl", "on_bad_record": "drop"}));
    assert_snapshot!(outcomes(&mslr, root.path()), @r#"
    s/1 {"docid":"1","sha":"x","preface":"p","target":"t","references":[{"title_abstract":"a"},{"title_abstract":"b"}],"abstracts":["a","b"]}
    sample 2 (m.jsonl, record 2): field "references" should be a list of records with a title_abstract, found a list
    hint: the record has docid, preface, target, references
    "#);
}
