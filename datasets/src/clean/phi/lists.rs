//! The words that names and places are told by. Deliberately modest: a list
//! cannot hold every name, and the contexts do most of the work.

use std::collections::HashMap;
use std::sync::LazyLock;

/// What a word, in lower case, can be; several at once.
pub(super) mod is {
    /// A given name.
    pub const GIVEN: u8 = 1;
    /// A surname.
    pub const SURNAME: u8 = 2;
    /// An everyday word as well: weak evidence, and never looked for alone.
    pub const COMMON: u8 = 4;
    /// Not a name: a word of notes, medicine, grammar.
    pub const STOP: u8 = 8;
}

static WORDS: LazyLock<HashMap<&'static str, u8>> = LazyLock::new(|| {
    let mut words = HashMap::new();
    let lists = [
        (GIVEN, is::GIVEN),
        (GIVEN_COMMON, is::GIVEN | is::COMMON),
        (SURNAMES, is::SURNAME),
        (SURNAMES_COMMON, is::SURNAME | is::COMMON),
        (STOP, is::STOP),
    ];
    for (list, flag) in lists {
        for word in list.split_ascii_whitespace() {
            *words.entry(word).or_default() |= flag;
        }
    }
    words
});

/// Endings that words of medicine have and few names.
const CLINICAL_ENDINGS: &[&str] = &[
    "ology", "ologist", "ologic", "itis", "emia", "aemia", "osis", "opathy", "ectomy", "otomy",
    "ostomy", "plasty", "scopy", "graphy", "gram", "tion", "sion", "ment", "ness", "ical", "mycin",
    "cillin", "azole", "pril", "sartan", "statin", "olol", "idine", "amine", "mab", "ity", "ing",
    "ous", "ary", "ative", "ism", "uria", "algia", "pnea", "plegia", "ular", "emic", "ally",
    "atory", "ance", "ence", "sive", "trics", "trist", "iatry", "oma", "ized",
];

/// The flags of a word in any case; 0 for an unknown one.
pub(super) fn flags(word: &str) -> u8 {
    let mut lower = [0u8; 24];
    let bytes = word.as_bytes();
    if bytes.len() > lower.len() {
        return 0;
    }
    let lower = &mut lower[..bytes.len()];
    for (to, from) in lower.iter_mut().zip(bytes) {
        *to = from.to_ascii_lowercase();
    }
    // Lowering ASCII letters leaves UTF-8 as valid as it was.
    let lower = std::str::from_utf8(lower).unwrap_or("");
    WORDS.get(lower).copied().unwrap_or(0)
}

/// Is it a word that no person and no city is called?
pub(super) fn is_stop(word: &str) -> bool {
    let flags = flags(word);
    flags & is::STOP != 0 && flags & (is::GIVEN | is::SURNAME) == 0
}

/// Does it look like a word of medicine or of everyday English?
pub(super) fn is_clinical(word: &str) -> bool {
    if is_stop(word) {
        return true;
    }
    if flags(word) != 0 {
        return false;
    }
    let lower = word.to_ascii_lowercase();
    word.len() > 5 && CLINICAL_ENDINGS.iter().any(|end| lower.ends_with(end))
}

const GIVEN: &str = "james robert john michael david william richard joseph thomas christopher charles daniel matthew anthony donald steven stephen andrew paul joshua kenneth kevin brian timothy ronald jason george edward jeffrey ryan jacob nicholas gary eric jonathan larry justin scott brandon benjamin samuel gregory alexander patrick frank raymond dennis jerry tyler aaron jose adam nathan henry zachary douglas peter kyle noah ethan jeremy walter christian keith roger terry harry ralph sean jesse roy louis billy eugene russell philip johnny bobby carlos juan luis miguel antonio bruce willie gabriel alan logan albert vincent arthur lawrence howard leonard stanley fred martin ernest francis bernard theodore clarence herbert norman marvin calvin edwin gerald harold carl wayne victor manuel mario pedro francisco alejandro jorge ricardo rafael oscar mary patricia jennifer linda elizabeth barbara susan jessica sarah karen lisa nancy betty sandra margaret ashley kimberly emily donna michelle carol amanda melissa deborah stephanie rebecca sharon laura cynthia dorothy amy kathleen angela shirley brenda emma anna pamela nicole samantha katherine christine helen debra rachel carolyn janet maria catherine heather diane olivia julie joyce victoria ruth lauren kelly christina joan evelyn judith andrea hannah megan cheryl jacqueline martha madison teresa gloria sara janice ann kathryn abigail sophia frances jean alice judy isabella julia denise amber danielle marilyn beverly charlotte natalie theresa diana brittany doris kayla alexis lori marie mildred lillian edith ethel thelma lucille marjorie gertrude esther irene eleanor josephine norma rita juanita annie wanda phyllis tina paula peggy tammy tracy dana robin carmen rosa ana sofia guadalupe yolanda elena monica veronica allison erin holly jill kristen leslie vanessa bonnie connie rosemary sally sylvia sheila marcia anne elaine lois marion vera loretta bernice agnes mabel mike steve dave bob tom tim jim joe dan chris matt tony ken jeff greg ted sam ben nick liz beth kathy sue debbie becky cindy vicki maggie katie jenny mohammed muhammad ahmed ali omar fatima aisha wei ming li jing priya raj anil sanjay deepak hiroshi kenji yuki";
const GIVEN_COMMON: &str = "mark will grace hope faith rose rich grant chase art bill drew jack max ray pat miles gene dale glen lance iris joy dawn eve ruby violet lily ivy hazel ginger olive jade crystal summer april may june august autumn guy angel virginia georgia carolina florence savannah austin dallas jackson lincoln melody christian paris chance rusty sandy penny daisy pearl opal dean earl duke barry wally van merry misty stormy brook skip";
const SURNAMES: &str = "smith johnson williams jones garcia miller davis rodriguez martinez hernandez lopez gonzalez wilson anderson thomas taylor moore jackson martin lee perez thompson harris sanchez clark ramirez lewis robinson walker allen scott torres nguyen flores adams nelson hall rivera campbell mitchell carter roberts gomez phillips evans turner diaz parker cruz edwards collins reyes stewart morris morales murphy rogers gutierrez ortiz morgan cooper peterson bailey reed kelly howard ramos kim cox ward richardson watson brooks chavez bennett gray james mendoza ruiz hughes alvarez castillo sanders patel myers ross foster jimenez powell jenkins perry russell sullivan bell coleman butler henderson barnes gonzales fisher vasquez simmons romero jordan patterson alexander hamilton graham reynolds griffin wallace moreno west cole hayes bryant herrera gibson ellis tran medina aguilar stevens murray ford castro marshall owens harrison fernandez mcdonald woods washington kennedy wells vargas henry chen freeman webb tucker guzman burns crawford olson simpson porter hunter gordon mendez silva shaw snyder mason dixon munoz hunt hicks holmes palmer wagner black robertson boyd rose warren fox rice mills meyer schmidt garza daniels ferguson nichols stephens soto weaver ryan gardner payne dunn kelley spencer hawkins arnold pierce chang wong singh wang zhang liu yang huang wu zhao khan ahmed hussain cohen levine schwartz goldberg friedman kaplan shapiro rosenberg murphy obrien oconnor mccarthy fitzgerald sweeney gallagher doyle burke kowalski nowak novak larson carlson hansen jensen nielsen christensen schneider weber becker hoffman keller klein lehman fletcher griffith hopkins lawson matthews maxwell mccoy mcdaniel mckinney mclaughlin montgomery nash newman norris norton osborne parsons perkins peters pratt ramsey randall reeves rhodes richards roth sawyer schultz shelton sherman sims steele stephenson stokes sutton swanson terry thornton todd townsend tyler underwood vaughn wade walsh walters watkins watts weiss wheeler whitaker wilkerson wilkins wilkinson willis zimmerman pham hoang yamamoto tanaka suzuki kumar sharma gupta rao reddy shah park choi kang";
const SURNAMES_COMMON: &str = "brown white black green young long short hand foot bush rice wood stone hill banks day price best small little strong sharp cook baker king wright hunter cross field fields frost love lane rivers marsh poole pool page rich case chase church conway english french german ball berry bishop bond bowl branch bright brock burden burns butler cotton curry drake fish flood flowers forest gold golden good head heart holder horn house joy knight lamb law light lord manning may mercer moody moon neal noble pace pain parish pope power pruitt quick rose rush sample sands savage self sellers singleton skinner spears speed swift temple vance vest walls waters weeks wise wolf york gray ward hall bell reed cole west ford dean marks grant christian bland booth hood";

/// Words that stand capitalised in notes and are nobody's name.
const STOP: &str = "the a an and or of in on at to for with without from by as is was are were be been being has have had he she it they we you i his her their our your its this that these those there here who which what when where why how not no yes none if then than but so such because while although after before during since until upon within over under above below between into about per via also may can could should would will shall must might do does did done any all some each every other another both either neither more most less least very only just still again once now today yesterday tomorrow currently recently previously initially finally subsequently however therefore thus please note notes noted see seen \
patient patients pt pts mr mrs ms dr miss doctor doctors nurse nurses physician physicians provider providers attending resident fellow intern surgeon surgeons assistant assistants anesthesia anesthesiologist anesthetist therapist technician consultant consultants specialist practitioner team service services staff unit hospital clinic center centre medical health care department dept office emergency room icu micu sicu ccu nicu er ed or pacu ward floor bed rehab nursing home facility institute university college school laboratory lab labs radiology cardiology neurology oncology surgery surgical medicine pediatrics psychiatry pathology dermatology urology orthopedics ortho gyn ob pcp ems \
history past present illness chief complaint complaints physical examination exam review systems assessment plan impression findings finding indication indications technique comparison procedure procedures operation operative preoperative postoperative diagnosis diagnoses discharge admission admitted date dates time name names age sex gender male female man woman boy girl gentleman lady race white hispanic african american caucasian asian allergies allergy medications medication meds drug drugs dose social family surgical hx hpi pmh psh ros pe ap subjective objective vital vitals signs sign general heent head eyes ears nose throat mouth neck chest lungs lung heart cardiac cardiovascular respiratory pulmonary abdomen abdominal extremities extremity skin neuro neurologic neurological musculoskeletal genitourinary gastrointestinal psychiatric endocrine hematologic lymph constitutional back spine bones brain liver kidney kidneys spleen pancreas bowel bladder uterus ovary ovaries breast prostate thyroid blood pressure pulse temperature temp weight height oxygen saturation rate rhythm normal abnormal negative positive unremarkable stable mild moderate severe acute chronic left right bilateral upper lower anterior posterior lateral medial proximal distal superior inferior mid \
ct mri mr xr cxr us ekg ecg eeg emg echo pet cbc bmp cmp ua wbc rbc hgb hct plt na k cl bun cr bp hr rr iv im po prn bid tid qid daily weekly mg ml cc cm mm copd chf cad htn dm ckd esrd gerd uti dvt pe mi cva tia afib hiv hcv aids dna rna usa us uk fda cdc nih md do phd rn np pa lpn cna dds dpm pharmd facs facc esq jr sr ii iii iv \
disease diseases syndrome disorder disorders cancer tumor carcinoma lymphoma leukemia sarcoma fracture infection pain fever cough nausea vomiting headache failure stroke diabetes asthma pneumonia hypertension anemia arthritis hepatitis cirrhosis obesity depression anxiety catheter tube drain line lines stent graft valve pacemaker device clamp forceps retractor suture sutures needle blade drape solution saline betadine lidocaine marcaine aspirin tylenol advil motrin lasix coumadin plavix lipitor zocor norvasc insulin metformin heparin lovenox vancomycin zosyn levaquin cipro keflex ancef bactrim flagyl prednisone albuterol advair nexium prilosec protonix zantac pepcid zofran ativan xanax valium morphine dilaudid percocet vicodin oxycodone fentanyl versed propofol synthroid lisinopril metoprolol atenolol amlodipine simvastatin atorvastatin furosemide warfarin gabapentin neurontin lyrica zoloft prozac paxil celexa lexapro effexor wellbutrin seroquel risperdal zyprexa haldol lithium depakote dilantin tegretol keppra \
deceased alive unknown unavailable none independent married single divorced widowed retired disabled unemployed works lives living smoker tobacco alcohol denies reports states complains given taken using used start started stop stopped continue continued follow followed followup up down out off return call called contact instructions condition disposition course summary report reports reviewed dictated transcribed signed electronically authenticated verified approved copy cc re fax phone telephone tel email address city state zip street mother father brother sister son daughter wife husband spouse parent parents child children sibling siblings aunt uncle cousin grandmother grandfather guardian friend contact next kin relationship \
monday tuesday wednesday thursday friday saturday sunday january february march april june july august september october november december spring summer fall winter morning evening afternoon night day days week weeks month months year years hour hours minute minutes first second third fourth fifth one two three four five six seven eight nine ten total number type class stage grade level score scale index test tests testing study studies result results value values range reference sample specimen culture cultures gram stain screen screening risk factor factors treatment treatments therapy management evaluation consultation consult referral visit appointment question questions answer record records chart file account insurance medicare medicaid policy group plan member id mrn ssn dob doa dos \
national american americans natives english spanish international federal government public private institutes society association foundation academy program research trial trials project network division section branch bureau agency administration north south east west northern southern eastern western central new old great grand high low big small large saint st mount lake river island county town village road avenue boulevard drive lane court place square building suite apartment box christmas thanksgiving easter halloween jewish catholic christian muslim protestant \
parkinson hodgkin alzheimer crohn cushing addison graves hashimoto marfan turner klinefelter down raynaud sjogren wegener behcet kawasaki paget huntington wilson foley swan ganz hickman babinski romberg murphy mcburney rovsing kernig brudzinski lasegue phalen tinel lachman mcmurray drawer homan homans trousseau chvostek kussmaul cheyne stokes glasgow apgar bishop gleason clark breslow ann arbor duke jones ranson child pugh karnofsky ecog braden norton barrett meckel hirschsprung zenker mallory weiss boerhaave zollinger ellison whipple billroth roux nissen heller hartmann bell baker colles smith bankart charcot dupuytren morton osgood schlatter perthes legg calve scheuermann ewing wilms kaposi merkel burkitt epstein barr coombs rh tzanck wright giemsa papanicolaou pap doppler holter swan penrose blake jackson pratt kocher kelly allis adson debakey metzenbaum mayo bovie deaver richardson army navy balfour bookwalter thompson finochietto trendelenburg fowler sims lloyd davies kerlix steri strip ace velcro ethicon medtronic jude abbott guidant stryker zimmer depuy synthes biomet chiari arnold dandy walker lewy creutzfeldt jakob guillain barre lou gehrig friedreich tourette asperger wernicke korsakoff todd jacksonian horner adie bell ramsay hunt meniere dix hallpike epley weber rinne snellen goldmann schirmer fuchs stevens johnson fabry gaucher tay sachs niemann pick pompe lynch peutz jeghers gardner cowden bartter gitelman liddle conn fanconi alport goodpasture henoch schonlein still felty reiter caplan kartagener wolff parkinson white brugada eisenmenger ebstein fallot takayasu buerger osler janeway roth austin flint graham steell levine beck virchow budd chiari hopkins mayo kegel valsalva heimlich apley ortolani barlow moro galant braxton hicks spurling hawkins neer yergason speed thomas ober trendelenburg patrick faber allen schober ilizarov salter harris garden lefort mallampati asa nyha timi grace chads wells perc curb apache sofa nihss mmse phq gad audit cage moca barthel vitamin calcium iron zinc magnesium potassium sodium chloride glucose creatinine bilirubin albumin hemoglobin hematocrit platelets";

/// States' postal codes.
pub(super) const STATE_CODES: &[&str] = &[
    "AL", "AK", "AZ", "AR", "CA", "CO", "CT", "DE", "DC", "FL", "GA", "HI", "ID", "IL", "IN", "IA",
    "KS", "KY", "LA", "ME", "MD", "MA", "MI", "MN", "MS", "MO", "MT", "NE", "NV", "NH", "NJ", "NM",
    "NY", "NC", "ND", "OH", "OK", "OR", "PA", "PR", "RI", "SC", "SD", "TN", "TX", "UT", "VT", "VA",
    "WA", "WV", "WI", "WY",
];

/// States' names.
pub(super) const STATES: &[&str] = &[
    "Alabama",
    "Alaska",
    "Arizona",
    "Arkansas",
    "California",
    "Colorado",
    "Connecticut",
    "Delaware",
    "Florida",
    "Georgia",
    "Hawaii",
    "Idaho",
    "Illinois",
    "Indiana",
    "Iowa",
    "Kansas",
    "Kentucky",
    "Louisiana",
    "Maine",
    "Maryland",
    "Massachusetts",
    "Michigan",
    "Minnesota",
    "Mississippi",
    "Missouri",
    "Montana",
    "Nebraska",
    "Nevada",
    "New Hampshire",
    "New Jersey",
    "New Mexico",
    "New York",
    "North Carolina",
    "North Dakota",
    "Ohio",
    "Oklahoma",
    "Oregon",
    "Pennsylvania",
    "Rhode Island",
    "South Carolina",
    "South Dakota",
    "Tennessee",
    "Texas",
    "Utah",
    "Vermont",
    "Virginia",
    "Washington",
    "West Virginia",
    "Wisconsin",
    "Wyoming",
];

/// Countries and continents: larger than a state.
pub(super) const COUNTRIES: &[&str] = &[
    "Africa",
    "America",
    "Asia",
    "Europe",
    "Australia",
    "Austria",
    "Bangladesh",
    "Belgium",
    "Brazil",
    "Cambodia",
    "Cameroon",
    "Canada",
    "Chile",
    "China",
    "Colombia",
    "Congo",
    "Costa Rica",
    "Cuba",
    "Denmark",
    "Dominican Republic",
    "Ecuador",
    "Egypt",
    "El Salvador",
    "England",
    "Ethiopia",
    "Finland",
    "France",
    "Germany",
    "Ghana",
    "Greece",
    "Guatemala",
    "Haiti",
    "Honduras",
    "Hungary",
    "India",
    "Indonesia",
    "Iran",
    "Iraq",
    "Ireland",
    "Israel",
    "Italy",
    "Jamaica",
    "Japan",
    "Kenya",
    "Korea",
    "Laos",
    "Lebanon",
    "Malaysia",
    "Mexico",
    "Morocco",
    "Nepal",
    "Netherlands",
    "New Zealand",
    "Nicaragua",
    "Nigeria",
    "Norway",
    "Pakistan",
    "Panama",
    "Peru",
    "Philippines",
    "Poland",
    "Portugal",
    "Puerto Rico",
    "Romania",
    "Russia",
    "Saudi Arabia",
    "Scotland",
    "Somalia",
    "South Africa",
    "South Korea",
    "Spain",
    "Sudan",
    "Sweden",
    "Switzerland",
    "Syria",
    "Taiwan",
    "Thailand",
    "Turkey",
    "Uganda",
    "Ukraine",
    "United Kingdom",
    "United States",
    "Venezuela",
    "Vietnam",
    "Wales",
    "Middle East",
    "Central America",
    "South America",
    "North America",
    "Southeast Asia",
    "Sub-Saharan Africa",
    "Caribbean",
    "Medicare",
    "Medicaid",
];

/// Cities known without a comma before their state.
pub(super) const BIG_CITIES: &[&str] = &[
    "Chicago",
    "Los Angeles",
    "Houston",
    "Phoenix",
    "Philadelphia",
    "San Antonio",
    "San Diego",
    "Dallas",
    "San Jose",
    "Austin",
    "Jacksonville",
    "Fort Worth",
    "Columbus",
    "Charlotte",
    "Indianapolis",
    "San Francisco",
    "Seattle",
    "Denver",
    "Boston",
    "Nashville",
    "Detroit",
    "Portland",
    "Memphis",
    "Louisville",
    "Baltimore",
    "Milwaukee",
    "Albuquerque",
    "Tucson",
    "Fresno",
    "Sacramento",
    "Kansas City",
    "Atlanta",
    "Omaha",
    "Miami",
    "Cleveland",
    "Tulsa",
    "Oakland",
    "Minneapolis",
    "Tampa",
    "Pittsburgh",
    "Cincinnati",
    "St. Louis",
    "Orlando",
    "Newark",
    "Buffalo",
];
