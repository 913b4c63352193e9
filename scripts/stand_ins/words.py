"""Made-up medical prose: words by frequencies like Zipf's, in sentences of fixed patterns."""

import re

MASK = 0xFFFFFFFFFFFFFFFF


class Random:
    """SplitMix64."""

    def __init__(self, *seeds):
        self.state = 0
        for seed in seeds:
            self.state = (self.state ^ seed) & MASK
            self.state = self.next()

    def next(self):
        self.state = z = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, n):
        return self.next() * n >> 64

    def between(self, low, high):
        return low + self.below(high - low + 1)

    def choice(self, items):
        return items[self.next() * len(items) >> 64]


NOUNS = """patient treatment disease therapy symptom infection pain risk blood pressure dose response surgery diagnosis
history heart failure fever cancer tumor lung liver kidney skin brain bone muscle nerve artery vein stomach bowel bladder
diabetes asthma stroke pneumonia sepsis anemia hypertension depression anxiety seizure migraine fracture ulcer edema
rash cough nausea vomiting diarrhea fatigue dizziness weakness headache bleeding swelling inflammation obesity arthritis
insulin glucose cholesterol protein hormone antibody antigen enzyme receptor gene mutation allele cell tissue membrane
virus bacteria fungus parasite vaccine antibiotic steroid opioid diuretic aspirin morphine heparin warfarin oxygen sodium
potassium calcium iron vitamin biopsy ultrasound radiograph scan test examination screening culture catheter stent graft
transplant dialysis ventilation resuscitation anesthesia incision suture wound abscess lesion nodule mass cyst stone
thrombus embolism ischemia infarction arrhythmia murmur cyanosis jaundice ascites hepatitis cirrhosis pancreatitis
colitis gastritis nephritis cystitis bronchitis meningitis encephalitis dermatitis psoriasis eczema acne melanoma
lymphoma leukemia carcinoma sarcoma metastasis remission relapse survival mortality morbidity incidence prevalence
placebo trial cohort sample control outcome effect level rate ratio increase decrease change baseline follow-up
pregnancy delivery infant child adult woman man age weight height diet exercise smoking alcohol sleep stress injury
trauma shock coma delirium dementia tremor paralysis neuropathy retina cornea glaucoma cataract hearing tinnitus sinus
throat tonsil thyroid pituitary adrenal ovary uterus prostate testis placenta fetus hospital clinic ward nurse physician
surgeon guideline protocol consent referral discharge admission complication allergy toxicity overdose withdrawal""".split()
ADJECTIVES = """acute chronic severe mild moderate common rare clinical medical surgical bacterial viral fungal renal
hepatic cardiac pulmonary cerebral gastric intestinal vascular arterial venous muscular skeletal neural spinal cranial
facial oral nasal ocular dermal pediatric geriatric maternal fetal neonatal congenital acquired hereditary genetic
metabolic hormonal immune autoimmune allergic inflammatory infectious malignant benign primary secondary advanced early
late recurrent refractory stable unstable normal abnormal elevated reduced high low systemic local bilateral left right
upper lower anterior posterior lateral medial proximal distal superficial deep painful tender swollen diffuse focal
intravenous topical subcutaneous prophylactic therapeutic diagnostic invasive minor major effective safe toxic adverse
significant independent prospective retrospective randomized daily weekly prolonged rapid gradual transient persistent
symptomatic asymptomatic diabetic hypertensive obese elderly pregnant febrile septic ischemic hemorrhagic thrombotic""".split()
VERBS = """treated managed observed reported associated compared reduced increased prevented confirmed excluded measured
monitored recommended prescribed administered discontinued tolerated evaluated assessed detected identified diagnosed
suspected considered started stopped continued repeated improved worsened resolved controlled caused followed preceded
accompanied complicated replaced removed inhibited activated induced mediated explained predicted affected examined
documented reviewed required avoided delayed performed described classified graded drained imaged resected repaired
irradiated vaccinated screened counselled randomized transferred admitted discharged referred stabilized""".split()
PREFIXES = """cardio nephro hepato gastro entero neuro encephalo myelo myo osteo arthro chondro dermato hemato angio
arterio phlebo lympho spleno thyro adreno pancreato cholecysto cysto uro ureto pyelo prostato orchio oophoro hystero
metro colpo masto pneumo broncho tracheo laryngo pharyngo rhino oto tympano ophthalmo kerato irido retino blepharo
stomato glosso gingivo odonto cheilo procto colo ileo jejuno duodeno esophago laparo thoraco costo spondylo cranio
meningo ganglio radiculo psycho histo cyto adeno lipo glyco proteo immuno sero toxo bacterio viro myco onco carcino
sarco fibro sclero necro thrombo embolo athero aneurysmo varico hemangio lymphangio neurofibro rhabdo leio tendo burso
synovio perioste acro dactylo podo brachio cervico lumbo sacro coxo genu omo phono photo thermo baro cryo electro
Sjögreno Ménièro""".split()
MIDDLES = """hyper hypo poly oligo pan peri endo epi para pseudo micro macro mono hemi brady tachy dys eu iso hetero anti
pro neo meta trans sub supra inter intra retro""".split()
NOUN_ENDINGS = """itis osis oma pathy algia ectomy plasty scopy gram graphy lysis genesis trophy plasia penia philia
rrhagia rrhea stenosis sclerosis malacia megaly ptosis spasm plegia paresis tomy stomy pexy centesis cele lith therapy
toxin kinase globulin statin receptor""".split()
ADJECTIVE_ENDINGS = "al ic ous ary oid genic pathic trophic lytic static toxic tropic philic plastic stenotic form gram-negative".split()
DRUG_STARTS = """ami beni cardi dexo esi fluva gali hydri ibru keto lami meti napri olma pera quini risi sita tera ulti
vera wari xilo zoni brexi canda dola ezo furo""".split()
DRUG_MIDDLES = "ba ce di fo lu me na ro sa ti vo xa ze".split()
DRUG_ENDINGS = "lol pril sartan statin azole mycin cillin prazole dipine gliptin tidine mab nib vir zepam oxetine floxacin profen".split()
TABLE = 1 << 18  # a word stands in its table as often as its frequency asks for; a draw is 18 bits


def zipf_table(words):
    """A table in which the word of rank n stands in proportion to 1 / (n + 3)^1.3, and at least once."""
    weights = [(rank + 3) ** -1.3 for rank in range(len(words))]
    spare = (TABLE - len(words)) / sum(weights)
    counts = [1 + int(spare * weight) for weight in weights]
    counts[0] += TABLE - sum(counts)
    return [word for word, count in zip(words, counts) for _ in range(count)]


def flat_table(words):
    return [words[at % len(words)] for at in range(TABLE)]


def made_words(known, endings, count, seed):
    """The known words, then made ones: of two parts first, then of three, in an order of their own."""
    def join(start, end):
        return start[:-1] + end if start[-1] in "aeiou" and end[0] in "aeiou" else start + end

    r = Random(seed)
    short = [join(start, end) for start in PREFIXES for end in endings]
    long = [middle + word for middle in MIDDLES for word in short]
    for words in (short, long):
        for at in range(len(words) - 1, 0, -1):
            other = r.below(at + 1)
            words[at], words[other] = words[other], words[at]
    return list(dict.fromkeys(known + short + long))[:count]


def numbers():
    r, found = Random(3), []
    for _ in range(4096):
        whole = r.between(2, 99)
        found.append(r.choice([str(whole), str(whole), f"{r.below(20)}.{r.below(100)}", f"{whole}0", f"{r.between(1, 9)},{r.below(1000):03}"]))
    return found


def drug_names():
    return [a + b + c for b in DRUG_MIDDLES for a in DRUG_STARTS for c in DRUG_ENDINGS]


NOUN_WORDS = made_words(NOUNS, NOUN_ENDINGS, 16000, 1)
TABLES = {
    "n": zipf_table(NOUN_WORDS),
    "a": zipf_table(made_words(ADJECTIVES, ADJECTIVE_ENDINGS, 8000, 2)),
    "v": flat_table(VERBS),
    "d": flat_table(numbers()),
    "x": zipf_table(drug_names()),
}


def patterns(text):
    """A line each; {n} is a noun, {a} an adjective, {v} a participle, {d} a number, {x} a drug."""
    def one(line):
        kinds = re.findall(r"\{(\w)\}", line)
        return re.sub(r"\{\w\}", "%s", line.replace("%", "%%")), [TABLES[kind] for kind in kinds]

    return [one(line) for line in text.strip().splitlines()]


STATEMENTS = patterns("""
{a} {n} with {n} is {v} in {d}% of patients who have {a} {n}.
the {n} was {v} by {n} and {n}, and the {a} {n} was {v} after {d} days.
{x} {d} mg is {v} for {n}; in {a} {n} the dose is {v} to {d} mg.
when {n} is {v}, {a} {n} should be {v} within {d} hours.
most {n} of the {n} is {v}, although {a} {n} can be {v} by {n}.
in {a} {n}, {n} and {n} were {v} more often than {n} (p < 0.{d}).
a {d}-year-old with {a} {n} was {v} for {n} and {a} {n}.
it's important that {n} isn't {v} before the {a} {n} has been {v}.
{n}, {n} and {a} {n} are the usual causes of {n}.
we {v} {d} cases of {n} in which {a} {n} had been {v}.
there was no {a} {n}, but {n} of the {n} was {v}.
{x} and {x} are not {v} together because of {a} {n}.
the {a} {n} was {d} mmol/L, and the {n} {d} mg/dL (normal: {d} to {d}).
symptoms such as {n}, {a} {n} or {n} need {n} at once.
{n} may be {v} by {x}, by {n}, or by both.
if the {n} is {a}, {v} {n} does not rule out {a} {n}.
after {n} the {a} {n} had {v}, and {n} was {v} with {x}.
{a} {n} (so-called "{n} {n}") is {v} in {a} {n}.
the mechanism of {n} is {a} {n} that is {v} by {n} of the {n}.
compared with {n}, {x} {v} the rate of {a} {n} from {d}% to {d}%.
ask about {n}, {n} and {a} {n} before {x} is {v}.
{n} of {a} {n} has been {v} since {n} was first {v} in {n}.
"{a} {n}" means that the {n} is {v} and the {n} {a}.
risk factors are {n}, {a} {n}, {n} above {d} and {a} {n}.
you should see a doctor if {n} is {v} or the {n} feels {a}.
please take {x} {d} mg with {n}, and avoid {n} until {n} has {v}.
on {n} the {n} showed {a} {n} in the {a} {n}, {d} x {d} mm.
{v} {n} and {a} {n} remain {a} problems after {n}.
the {n} were {v} for {a} {n}; {d} of {d} had {n}.
both {n} and {n} have been {v} in {a} {n}, but {x} has not.
your {n} is probably {a}, and I would not be worried about {n} now.
{a} {n} cannot be told from {a} {n} without {n}.
""")
QUESTIONS = patterns("""
what is the {a} cause of {n} in {a} {n} with {n}?
how is {a} {n} {v} when {n} and {n} are {a}?
which {n} should be {v} for a {d}-year-old with {a} {n} and {n}?
why does {x} cause {n} in {a} {n}, and how is {n} {v}?
is it safe to take {x} with {x} for {a} {n} after {n}?
I have had {a} {n} and {n} for {d} weeks; should my {n} be {v}?
my mother was {v} for {n} and now has {a} {n} and {n}; is {x} {a}?
can {n} be {v} without {n} if the {a} {n} is {v}?
explain the role of {a} {n} in {n} and in {a} {n}.
write a short summary of {n} for people with {a} {n} and {n}.
list the {a} signs of {n} and say when {n} must be {v}.
what is the relation of {a} {n} to {n} of the {n}?
""")
TITLES = patterns("""
{a} {n} and {n} in {a} {n}: a study of {d} cases
effect of {x} on {a} {n} in {n} with {a} {n}
{n} of the {n} as a cause of {a} {n}
{a} {n} predicts {n} after {a} {n}
{x} or {x} for {a} {n}: a randomized trial of {n}
""")
# Of evaluation items only: what a row has of one by chance is then no more than in real sets.
VIGNETTES = patterns("""
{a} {n} brings a {d}-year-old to the {n}; {n} and {a} {n} began {d} weeks ago.
{n}: {d}/min, {n}: {d}/{d} mm Hg, {n}: {d}; examination finds {a} {n} near the {n}.
{a} {n} grows in {n}, where {n} {d} has been {v}, then {v}.
neither {x} nor {x} helped, and the {n} has {v} its {a} {n}.
""")
ASKED = patterns("""
which {n} explains {a} {n} best, given {n} but {a} {n}?
of {n}, {n}, {a} {n} and {x}, what comes next here?
""")


def sentence(r, of=STATEMENTS):
    pattern, tables = r.choice(of)
    text = pattern % tuple([table[r.next() >> 46] for table in tables])
    return text[0].upper() + text[1:]


def prose(r, low, high):
    return " ".join([sentence(r) for _ in range(r.between(low, high))])


def paragraphs(r, low, high):
    """Prose with a line end after every second sentence."""
    texts = [sentence(r) for _ in range(r.between(low, high))]
    return "\n".join(" ".join(texts[at : at + 2]) for at in range(0, len(texts), 2))


def question(r, low=1, high=1):
    return " ".join([prose(r, low - 1, high - 1), sentence(r, QUESTIONS)]).strip()


def word(r, kind="n"):
    return TABLES[kind][r.next() >> 46]
