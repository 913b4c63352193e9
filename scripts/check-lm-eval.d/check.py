"""Asks medtune and lm-evaluation-harness the same items and compares what they pick. Started by scripts/check-lm-eval."""
import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import items

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
GOLDEN = REPOSITORY / "tests" / "golden" / "check-lm-eval.json"
AGREEMENT = 0.995  # of the picks of a task
TIE = 1e-3  # nats: a pick may differ only where both models find the two options this close
THREADS = os.environ.get("THREADS", "2")

PUBMEDQA = """As an expert doctor in clinical science and medical knowledge, can you tell me if the following statement is correct? Answer yes, no, or maybe.
{{contexts|join('\n')}}
{{question}}
The answer is:"""
MEDQA = """You are a medical doctor taking the US Medical Licensing Examination. You need to demonstrate your understanding of basic and clinical science, medical knowledge, and mechanisms underlying health, disease, patient care, and modes of therapy. Show your ability to apply the knowledge essential for medical practice. For the following multiple-choice question, select one correct answer from A to E. Base your answer on the current and standard practices referenced in medical guidelines.
Question: {{question}}{% if question[-1:] not in '?.' %}?{% endif %}

Options:
{% for o in options %}{{o.key}}. {{o.value}}{% if not loop.last %}\n{% endif %}{% endfor %}

The answer is"""
MMLU = """The following are multiple choice questions (with answers) about {{subject|replace('_', ' ')}}.

{{question|trim}}
A. {{options[0]}}
B. {{options[1]}}
C. {{options[2]}}
D. {{options[3]}}
Answer:"""
CLOZE = "Question: {{question|trim}}\nAnswer:"


class Comparison:
    """One task: `file` is medtune's, under recipes/eval; `plain` takes the chat template off it; `limit` of its items are asked."""

    def __init__(self, name, file, rows, text, chat=False, plain=False, own=None, limit=None):
        self.name, self.file, self.rows, self.text = name, file, rows, text
        self.chat, self.plain, self.own, self.limit = chat, plain, own, limit

    def task(self):
        """The task file that medtune is given."""
        if self.own is not None:
            return self.own
        lines = [f'extends = "{REPOSITORY / "recipes" / "eval" / self.file}"', f'name = "{self.name}"',
                 'answering = ["log-likelihood"]', 'metrics = ["accuracy"]']
        if self.plain:
            lines.append("chat_template = false")
        return "\n".join(lines) + "\n"

    def yaml(self, data):
        """The task that lm-eval is given. JSON is YAML."""
        return json.dumps({
            "task": self.name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test", "output_type": "multiple_choice", "doc_to_text": self.text,
            "doc_to_choice": "{{choices}}", "doc_to_target": "gold",
            "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm", "acc_bytes")],
            "metadata": {"version": 1.0},
        }, indent=1)


CLOZE_TASK = """name = "mmlu-medical-cloze"
version = 1
answering = ["log-likelihood"]
options.templates = ["{{ options[0].value }}", "{{ options[1].value }}", "{{ options[2].value }}", "{{ options[3].value }}"]
chat_template = false
log_likelihood.normalisation = "bytes"
metrics = ["accuracy"]

[source]
name = "mmlu-val"
format = "mmlu"
path = "mmlu/data/val"
where = '''subject in %s'''
access = "open"

[source.task]
prompt = "Question: {{ question | trim }}\\nAnswer:"
answer = "{{ answer }}"
""" % json.dumps(items.MEDICAL)

COMPARISONS = [
    Comparison("pubmedqa-plain", "mibe/pubmedqa.toml", items.pubmedqa, PUBMEDQA, plain=True),
    Comparison("pubmedqa-chat", "mibe/pubmedqa.toml", items.pubmedqa, PUBMEDQA, chat=True, limit=100),
    Comparison("medqa-dev-plain", "stand-ins/medqa-dev.toml", items.medqa, MEDQA, plain=True),
    Comparison("mmlu-medical", "forgetting/mmlu-medical.toml", items.mmlu(items.MEDICAL), MMLU),
    Comparison("mmlu-other", "forgetting/mmlu-other.toml", items.mmlu(items.OTHER), MMLU),
    # Options of several tokens, marked by their length.
    Comparison("mmlu-medical-cloze", None, items.mmlu(items.MEDICAL, cloze=True), CLOZE, own=CLOZE_TASK),
]


def run(command, log, **environment):
    """Runs a command to its end, and how long that took."""
    threads = {name: THREADS for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
    start = time.perf_counter()
    with open(log, "w") as out:
        done = subprocess.run([str(part) for part in command], stdout=out, stderr=subprocess.STDOUT,
                              env={**os.environ, **threads, **environment})
    if done.returncode != 0:
        tail = "\n".join(Path(log).read_text().splitlines()[-20:])
        sys.exit(f"error: {command[0]} exited with {done.returncode}; the end of {log}:\n{tail}")
    return time.perf_counter() - start


def ask_medtune(medtune, model, data_root, work, comparisons, limit):
    """The report's items by task, and the seconds that it took."""
    out = work / "medtune"
    (work / "tasks").mkdir(exist_ok=True)
    command = [medtune, "eval", "--model", model, "--data-root", data_root, "--out", out, "--fresh",
               "--set", 'model.dtype="f32"']
    for comparison in comparisons:
        file = work / "tasks" / f"{comparison.name}.toml"
        file.write_text(comparison.task())
        count = limit or comparison.limit
        command += ["--task", f"{file}:{count}" if count else file]
    secs = run(command, work / "medtune.log")
    base = json.loads((out / "eval" / "report.json").read_text())["models"][0]
    measured = json.loads((out / "eval" / "measured.json").read_text())
    return {task["task"]: task["items"] for task in base["tasks"]}, secs, measured["facts"]["secs_by_model"]["base"]


def ask_lm_eval(model, work, comparison, rows, batch_size, keep=True):
    """lm-eval's samples by item, and the seconds that it and its model took. Answers of an earlier run to the same are kept."""
    folder = work / "lm-eval" / comparison.name
    asked, data = folder / "asked.json", folder / "items.jsonl"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    question = json.dumps(dict(task=comparison.yaml(data), items=hashlib.sha256(text.encode()).hexdigest(), model=str(model)))
    if not (keep and asked.is_file() and asked.read_text() == question):
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "cache").mkdir(parents=True)
        data.write_text(text)
        (folder / "task.yaml").write_text(comparison.yaml(data))
        command = [sys.executable, HERE / "timed.py", folder / "secs.json", "run", "--model", "hf",
                   "--model_args", f"pretrained={model},dtype=float32", "--tasks", comparison.name, "--include_path", folder,
                   "--device", "cpu", "--batch_size", batch_size, "--log_samples", "--output_path", folder / "out"]
        command += ["--apply_chat_template"] if comparison.chat else []
        secs = run(command, folder / "log", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1",
                   HF_HOME=str(folder / "cache"), TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")
        measured = json.loads((folder / "secs.json").read_text())
        (folder / "secs.json").write_text(json.dumps({**measured, "secs": secs}))
        asked.write_text(question)
    (file,) = (folder / "out").glob("**/samples_*.jsonl")
    samples = (json.loads(line) for line in file.read_text().splitlines())
    measured = json.loads((folder / "secs.json").read_text())
    return {sample["doc"]["id"]: sample for sample in samples}, measured["secs"], measured["loglikelihood_secs"]


def best(values):
    return max(range(len(values)), key=lambda index: values[index])


def prompt_sha256(context, chat):
    """As medtune hashes a prompt: the text, or roles and contents of a conversation."""
    if not chat:
        return hashlib.sha256(b"text\0" + context.encode()).hexdigest()
    hashed = b"chat\0"
    for message in context.split("<|im_start|>")[1:-1]:
        role, content = message.removesuffix("<|im_end|>\n").split("\n", 1)
        # What the template adds by itself is not part of medtune's prompt.
        if role != "system":
            content = content.encode()
            hashed += role.encode() + len(content).to_bytes(8, "little") + content
    return hashlib.sha256(hashed).hexdigest()


def compare(comparison, ours, theirs):
    """Both models' answers to a task, item by item."""
    differences, offsets, differing, prompts = [], [], [], 0
    same = {"acc": 0, "acc_bytes": 0}
    right = {"medtune": 0, "lm_eval": 0}
    for item in ours:
        sample = theirs[item["id"]]
        arguments = [sample["arguments"][f"gen_args_{i}"] for i in range(len(item["log_probs"]))]
        prompts += item["prompt_sha256"] == prompt_sha256(arguments[0]["arg_0"], comparison.chat)
        we, they = item["log_probs"], [float(answer[0]) for answer in sample["filtered_resps"]]
        # Under a chat template lm-eval counts the line break after "assistant" to every option.
        offset = statistics.median(a - b for a, b in zip(they, we))
        offsets.append(offset)
        differences += [abs(a - b - (offset if comparison.chat else 0)) for a, b in zip(they, we)]
        lengths = [len(text.encode()) for text in sample["doc"]["choices"]]
        picks = {
            "acc": (best(we), best(they)),
            "acc_bytes": (best([w / n for w, n in zip(we, lengths)]), best([t / n for t, n in zip(they, lengths)])),
        }
        own = "acc_bytes" if comparison.own else "acc"
        if picks[own][0] != item["picked_option"]:
            sys.exit(f"error: medtune picked option {item['picked_option']} of {item['id']}, and its scores say {picks[own][0]}")
        for measure, (our_pick, their_pick) in picks.items():
            if int(their_pick == sample["doc"]["gold"]) != sample[measure]:
                sys.exit(f"error: lm-eval's {measure} of {item['id']} is {sample[measure]}, and its scores say otherwise")
            same[measure] += our_pick == their_pick
            if our_pick != their_pick:
                scale = lengths if measure == "acc_bytes" else [1] * len(we)
                gap = lambda scores: abs(scores[our_pick] / scale[our_pick] - scores[their_pick] / scale[their_pick])
                differing.append(dict(item=item["id"], measure=measure, medtune=our_pick, lm_eval=their_pick,
                                      medtune_gap_nats=gap(we), lm_eval_gap_nats=gap(they)))
        right["medtune"] += picks["acc"][0] == item["gold_option"]
        right["lm_eval"] += sample["acc"]
    differences.sort()
    at = lambda share: differences[min(len(differences) - 1, int(share * len(differences)))]
    count = len(ours)
    result = dict(
        task=comparison.name, chat_template=comparison.chat, items=count, same_prompts=prompts,
        accuracy={who: round(number / count, 6) for who, number in right.items()},
        same_picks={measure: round(number / count, 6) for measure, number in same.items()},
        log_likelihood_difference_nats=dict(median=at(0.5), p99=at(0.99), max=differences[-1]),
        differing_picks=differing,
    )
    if comparison.chat:
        result["line_break_nats"] = dict(least=min(offsets), most=max(offsets))
    agree = all(number / count >= AGREEMENT for number in same.values())
    ties = all(max(d["medtune_gap_nats"], d["lm_eval_gap_nats"]) <= TIE for d in differing)
    result["passed"] = agree and ties and prompts == count
    return result


def show(result):
    difference = result["log_likelihood_difference_nats"]
    print(f"{'ok  ' if result['passed'] else 'FAIL'} {result['task']:<20} {result['items']:>5} items, prompts {result['same_prompts']}, "
          f"same picks {result['same_picks']['acc']:.2%} (by bytes {result['same_picks']['acc_bytes']:.2%}), accuracy "
          f"{result['accuracy']['medtune']:.4f} and {result['accuracy']['lm_eval']:.4f}, difference of a log-likelihood: "
          f"median {difference['median']:.1e}, 99 % {difference['p99']:.1e}, most {difference['max']:.1e} nats", flush=True)
    if "line_break_nats" in result:
        offset = result["line_break_nats"]
        print(f"       lm-eval counts the line break after `assistant` to each option: {offset['least']:.1e} to {offset['most']:.1e} nats")
    for d in result["differing_picks"]:
        print(f"       {d['item']} by {d['measure']}: medtune picks option {d['medtune']}, lm-eval {d['lm_eval']}; "
              f"between the two medtune has {d['medtune_gap_nats']:.1e}, lm-eval {d['lm_eval_gap_nats']:.1e} nats")


def versions(medtune):
    import datasets, lm_eval, torch, transformers
    return dict(medtune=subprocess.run([medtune, "--version"], capture_output=True, text=True).stdout.strip(),
                lm_eval=lm_eval.__version__, torch=torch.__version__, transformers=transformers.__version__,
                datasets=datasets.__version__)


def check(arguments, comparisons, rows):
    medtune, secs, model_secs = ask_medtune(arguments.medtune, arguments.model, arguments.data_root, arguments.work, comparisons, arguments.limit)
    print(f"medtune: {secs:.0f} s, its model {model_secs:.0f} s", flush=True)
    results = []
    for comparison in comparisons:
        ours = medtune[comparison.name]
        asked = {item["id"] for item in ours}
        taken = [row for row in rows[comparison.name] if row["id"] in asked]
        samples, secs, model_secs = ask_lm_eval(arguments.model, arguments.work, comparison, taken, arguments.batch_sizes[0])
        missing = asked - samples.keys()
        if missing:
            sys.exit(f"error: {len(missing)} of medtune's items are not among those of {comparison.name}, such as {min(missing)}")
        print(f"lm-eval on {comparison.name}: {secs:.0f} s, its model {model_secs:.0f} s", flush=True)
        results.append(compare(comparison, ours, samples))
        show(results[-1])
    passed = all(result["passed"] for result in results)
    (arguments.work / "result.json").write_text(json.dumps(results, indent=1) + "\n")
    if arguments.write:
        found = dict(date=date.today().isoformat(), model=arguments.model.name, dtype="f32", **versions(arguments.medtune), passed=passed, tasks=results)
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if passed else 1


def speed(arguments, comparison, rows):
    """Both in turn on one task; lm-eval at each batch size, its best one counts."""
    times = {"medtune": []}
    for number in range(arguments.speed):
        medtune, *secs = ask_medtune(arguments.medtune, arguments.model, arguments.data_root, arguments.work, [comparison], arguments.limit)
        times["medtune"].append(secs)
        asked = {item["id"] for item in medtune[comparison.name]}
        taken = [row for row in rows[comparison.name] if row["id"] in asked]
        for size in arguments.batch_sizes:
            _, *secs = ask_lm_eval(arguments.model, arguments.work, comparison, taken, size, keep=False)
            times.setdefault(f"lm-eval, batch {size}", []).append(secs)
        for who, measured in times.items():
            print(f"{number + 1}: {who}: {measured[-1][0]:.1f} s, its model {measured[-1][1]:.1f} s", flush=True)
    medians = {who: [statistics.median(column) for column in zip(*measured)] for who, measured in times.items()}
    ours = medians.pop("medtune")
    who, theirs = min(medians.items(), key=lambda entry: entry[1][0])
    print(f"{len(asked)} items of PubMedQA, medians of {arguments.speed}: medtune {ours[0]:.1f} s, {who} {theirs[0]:.1f} s: "
          f"{theirs[0] / ours[0]:.2f} times as long; the models alone {ours[1]:.1f} and {theirs[1]:.1f} s: {theirs[1] / ours[1]:.2f} times")
    return 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("medtune", type=Path)
    parser.add_argument("--model", type=Path, default=REPOSITORY / "models" / "SmolLM2-135M-Instruct")
    parser.add_argument("--data-root", type=Path, default=REPOSITORY / "data")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "peers-work" / "check-lm-eval")
    parser.add_argument("--task", action="append", choices=[c.name for c in COMPARISONS])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch-sizes", default="8", type=lambda text: text.split(","))
    parser.add_argument("--speed", type=int)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    arguments.work = arguments.work.absolute()
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.model = arguments.model.absolute()
    chosen = [c for c in COMPARISONS if not arguments.task or c.name in arguments.task]
    rows = {c.name: list(c.rows(arguments.data_root)) for c in chosen}
    if arguments.speed:
        plain = next(c for c in COMPARISONS if c.name == "pubmedqa-plain")
        return speed(arguments, plain, {plain.name: list(plain.rows(arguments.data_root))})
    return check(arguments, chosen, rows)


if __name__ == "__main__":
    sys.exit(main())
