"""Made-up instruction rows for timing (not medical advice), the same on every machine, about 180 tokens each in a chat template.

usage: tokenize_rows.py N > ROWS.jsonl
"""

import json
import random
import sys

WORDS = {
    "condition": "asthma,gout,sepsis,migraine,epilepsy,hypertension,atrial fibrillation,chronic kidney disease,heart failure,"
    "rheumatoid arthritis,ulcerative colitis,deep vein thrombosis,type 2 diabetes,hypothyroidism,multiple sclerosis",
    "drug": "metformin,lisinopril,amoxicillin,apixaban,levothyroxine,methotrexate,allopurinol,omeprazole,sertraline,prednisolone,"
    "bisoprolol,tiotropium,levetiracetam,rivaroxaban,dapagliflozin",
    "symptom": "fatigue,chest pain,night sweats,palpitations,joint stiffness,blurred vision,haematuria,ankle swelling,dizziness,"
    "breathlessness,abdominal pain,weight loss,numbness,jaundice,tremor",
    "test": "HbA1c,serum creatinine,chest radiograph,12-lead ECG,ferritin,D-dimer,spirometry,lumbar puncture,liver enzymes,"
    "urine culture,echocardiogram,full blood count",
    "person": "man,woman,farmer,teacher,student,retired nurse,office worker,cook",
}
WORDS = {kind: words.split(",") for kind, words in WORDS.items()}
QUESTIONS = [
    "A {n}-year-old {person} has had {symptom} and {symptom} for {n} days. What is likely, and what would you do next?",
    "How is {drug} used in {condition}, and which side effects matter most?",
    "Which tests would you order for a {n}-year-old {person} with suspected {condition}?",
    "When should a {person} with {condition} who reports {symptom} be seen urgently?",
]
SENTENCES = [
    "With {symptom} and {symptom} in a {n}-year-old {person}, {condition} is likely, although {condition} has to be excluded.",
    "Begin with {test} and {test}; a normal {test} does not rule out {condition} when {symptom} goes on.",
    "{drug} is usually started at {n} mg twice daily (0.{n} mg/kg at most) and reviewed after {n} weeks.",
    "Stop {drug} if {symptom} or {symptom} develops, and repeat the {test} within {n} days.",
    "About {n}% of patients respond to {drug} alone; the others need {drug} as well.",
    "It's important to check for interactions with {drug}, which isn't safe in {condition}.",
    "Refer when {test} worsens, when {symptom} appears, or when two classes of drugs have failed.",
]


def written(draw, sentence):
    """The sentence with a word drawn for every name in braces."""
    head, *parts = sentence.split("{")
    for part in parts:
        kind, rest = part.split("}")
        head += (str(draw.randint(2, 98)) if kind == "n" else draw.choice(WORDS[kind])) + rest
    return head


draw = random.Random(20261123)
for number in range(int(sys.argv[1])):
    answer = [written(draw, draw.choice(SENTENCES)) for _ in range(draw.randint(2, 6))]
    row = {"id": number, "instruction": written(draw, draw.choice(QUESTIONS)), "input": "", "output": " ".join(answer)}
    print(json.dumps(row))
