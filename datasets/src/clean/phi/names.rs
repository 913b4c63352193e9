//! Names of people: runs of capitalised words, judged by what stands around
//! them and by lists of common names.

use std::collections::HashSet;

use regex::Regex;

use super::PhiClass::Name;
use super::lists::{is, is_clinical, is_stop};
use super::words::{Gap, TITLES, Word, is_placeholder, words};
use super::{Candidate, LABELLED, WEAK, after, before, pattern};

#[derive(Debug)]
pub(super) struct Names {
    label: Regex,
    closing: Regex,
    credential: Regex,
    person_verb: Regex,
    eponym: Regex,
    cue: Regex,
    weak_cue: Regex,
    relative: Regex,
}

/// Titles that are words of their own: what follows must not be one of notes.
const LOOSE_TITLES: &[&str] = &[
    "Nurse",
    "Doctor",
    "Officer",
    "Judge",
    "Attorney",
    "MS",
    "Professor",
];

impl Names {
    pub(super) fn new() -> Self {
        Self {
            label: pattern(
                r"(?i-u)(?:\b(?:name|patient|pt|attending|surgeons?|assistants?|physician|provider|doctor|pcp|md|nurse|rn|np|practitioner|dictated|dictator|transcriber|transcriptionist|transcribed|signed|signature|author|by|cc|to|from|attn|attention|re|contact|kin|proxy|guardian|spouse|wife|husband|mother|father|son|daughter|sister|brother|partner|caregiver|anesthesiologist|anesthetist|cardiologist|radiologist|pathologist|oncologist|neurologist|psychiatrist|therapist|consultants?|resident|fellow|intern|interpreter|informant|witness|employer|subscriber|guarantor|insured|responsible party|next of kin|emergency contact|maiden|alias|aka|surname|last|first|middle|clinician|case manager|social worker|pharmacist|technologist|requested|ordered|referring|reviewed|verified)(?:\(s\)|'s name)?[ \t]{0,3}[:#][ \t]{0,8}(?:\n[ \t]{0,8})?|/s/[ \t]{0,2})$",
            ),
            closing: pattern(
                r"(?i-u)\b(?:sincerely(?: yours)?|regards|respectfully(?: submitted| yours)?|cordially|yours truly|thanks|thank you|best wishes|warmly|yours faithfully)[,.]?[ \t]*\n\s{0,8}$|\bdear[ \n]$",
            ),
            credential: pattern(
                r"(?-u)^(?:,? ?(?:Jr|Sr|II|III|IV)\b\.?)?,?[ \n]?(?:M\.? ?D\b|D\.O\b|DO\b|R\.?N\b|NP\b|N\.P\b|FNP|PA-C|PA(?:[.;,\n]|$)|P\.A\b|Ph\.?D|PharmD|LCSW|LICSW|MSW|DDS|DMD|DPM|DPT|PT\b|OT\b|RD\b|CRNA|LPN|APRN|CNM|BSN|MSN|MBBS|FACS|FACP|FACC|MPH|Psy\.?D|Esq|EMT)",
            ),
            person_verb: pattern(
                r"(?-u)^(?:,?\swho|,?\s(?:a|an) \d{1,3}[- ]year|\s(?:is|was)\s(?:a|an|seen|admitted|discharged|referred|evaluated|brought|transferred|born|diagnosed|accompanied|interviewed|called|contacted|notified|present|informed|updated)\b|\s(?:has|had) (?:been|a history)|\s(?:presents?|presented|reports?|reported|states?|stated|denies|denied|complains?|lives|agreed|agrees|called|returned|returns|underwent|tolerated|consented|arrived|requested|requests|asked|says|said|phoned|signed|drove|visited|remembers|recalls|tells|told|wishes|confirmed|will be (?:seen|notified|following|picking)|can be reached|may be reached)\b)",
            ),
            eponym: pattern(
                r"(?i-u)^(?:'?s?'?)[- ](?:disease|syndromes?|signs?|tests?|lymphoma|catheters?|procedure|classification|score|scale|criteria|stage|staging|grade|grading|type|palsy|contracture|fractures?|hernia|cyst|tumou?r|sarcoma|esophagus|oesophagus|diverticulum|ulcers?|phenomenon|thyroiditis|anemia|maneuver|manoeuvre|position|incision|retractors?|clamps?|forceps|drains?|needle|tube|stents?|lines?|valve|prosthesis|repair|operation|technique|approach|method|stain|smear|reaction|reflex|pupils?|murmur|waves?|arrhythmia|block|node|nodes|glands?|cells?|bodies|body|tubules?|ducts?|ligament|canal|space|angle|point|triangle|line|index|formula|equation|law|rule|chorea|ataxia|aphasia|encephalopathy|dementia|paralysis|nephritis|vasculitis|arteritis|purpura|nevus|angina|cardiomyopathy|tetralogy|anomaly|malformation|deformity|osteotomy|amputation|fundoplication|anastomosis|pouch|gastrectomy|esophagectomy|ganglion|island|islets?|medium|agar|solution|bandage|dressing|boots?|splint|cast|traction|pins?|rods?|screws?|plates?|wires?|frame|brace|collar|exercises?|breath(?:ing)?|respirations?|hospital|clinic|center|centre|university|institute|foundation|medical|health|school|college|street|st\b|avenue|ave\b|road|county|coma|bars?|facies|headache|tremor|spots?|lesions?|ring|rings|web|warts?)\b",
            ),
            cue: pattern(
                r"(?i-u)\b(?:named|name is|name was|called me|goes by|known as|a\.?k\.?a\.?|dear|n(?u:[ée])e|(?:dictated|signed|seen|evaluated|performed|transcribed|reviewed|prepared|interpreted|read|ordered|witnessed|verified|authenticated|administered|obtained|assisted|examined|accompanied|followed|completed|supervised|referred|notified|contacted|given|brought in|approved|entered|translated) by|(?:discussed|spoke|spoken|speak|conversation|consultation|meeting|met|communicated|reviewed|appointment|visit|followup|follow-up|follow up) with|attention|attn|(?:the )?(?:patient|pt|client|resident|child|infant|baby|baby boy|baby girl)(?:,| is| was)?|care of|on behalf of|signed|letter to|addressed to|report to|thank you for referring|referring|(?:home|cell|care|health care) (?:aide|proxy|agent)|(?:neighbou?r|friend|roommate|caregiver|landlord|boss|coworker|teacher|interpreter|nurse|aide|social worker|case manager|therapist|pharmacist|technician|paramedic|student|supervisor|lawyer|pastor|employer|guardian|proxy|cardiologist|surgeon|oncologist|neurologist|psychiatrist|pediatrician|internist|hospitalist|intern|fellow|physician|radiologist|pathologist|dentist)(?: is| was)?,?)[ \n]{1,2}\(?$",
            ),
            weak_cue: pattern(
                r"(?i-u)\b(?:with|by|per|told|called|asked|informed|paged|saw|notified|let)[ \n]$",
            ),
            relative: pattern(
                r"(?i-u)\b(?:wife|husband|spouse|partner|fianc(?u:[eé])e?|girlfriend|boyfriend|mother|father|mom|dad|parents?|son|sons|daughters?|sisters?|brothers?|siblings?|aunt|uncle|cousin|niece|nephew|grandmother|grandfather|grandson|granddaughter|grandma|grandpa|stepmother|stepfather|stepson|stepdaughter|mother-in-law|father-in-law|son-in-law|daughter-in-law|brother-in-law|sister-in-law|twins?|children|ex-wife|ex-husband|widow|godmother)(?: is| was)?(?: named)?,?[ \n]{1,2}\(?$",
            ),
        }
    }

    pub(super) fn find(&self, text: &str, out: &mut Vec<Candidate>) {
        let words = words(text);
        let mut known: HashSet<String> = HashSet::new();
        let mut taken = vec![false; words.len()];
        let mut at = 0;
        while at < words.len() {
            let (length, name) = self.judge(text, &words, at);
            if let Some((first, last, rank)) = name {
                taken[first..=last].fill(true);
                remember(text, &words[first..=last], &mut known);
                let (start, end) = (words[first].start, words[last].end);
                out.push(Candidate {
                    class: Name,
                    start,
                    end,
                    rank,
                });
            }
            at += length.max(1);
        }
        if known.is_empty() {
            return;
        }
        // A name that was told by its context stands elsewhere without one.
        for (word, _) in words.iter().zip(taken).filter(|(_, taken)| !taken) {
            let shown = &text[word.start..word.end];
            if !word.initial
                && known.contains(&shown.to_lowercase())
                && !self.eponym.is_match(after(text, word.end, 24))
            {
                out.push(Candidate {
                    class: Name,
                    start: word.start,
                    end: word.end,
                    rank: WEAK,
                });
            }
        }
    }

    /// Judges the words from `at`: how many were looked at, and which of them
    /// are a name.
    fn judge(&self, text: &str, words: &[Word], at: usize) -> (usize, Option<(usize, usize, u8)>) {
        let shown = |i: usize| &text[words[i].start..words[i].end];
        if TITLES.contains(&shown(at)) && !words[at].possessive {
            return match titled(text, words, at) {
                Some(last) => (last + 1 - at, Some((at + 1, last, LABELLED))),
                None => (1, None),
            };
        }
        if let Some(last) = self.comma_form(text, words, at) {
            return (last + 1 - at, Some((at, last, LABELLED)));
        }
        if words[at].initial || is_stop(shown(at)) {
            let initials = words[at]
                .initial
                .then(|| self.initials(text, words, at))
                .flatten();
            if let Some(last) = initials {
                return (last + 1 - at, Some((at, last, WEAK)));
            }
            if is_stop(shown(at)) || !self.is_cued(text, words[at].start) {
                return (1, None);
            }
        }
        let last = segment_end(text, words, at);
        let length = last + 1 - at;
        let trailing =
            words[last].initial && last > at && !after(text, words[last].end, 1).starts_with('.');
        let last = if trailing && !self.is_cued(text, words[at].start) {
            last - 1
        } else {
            last
        };
        match self.evidence(text, &words[at..=last]) {
            Some(rank) => (length, Some((at, last, rank))),
            None => (length, None),
        }
    }

    fn is_cued(&self, text: &str, start: usize) -> bool {
        let head = before(text, start, 48);
        self.is_labelled(head) || self.cue.is_match(head)
    }

    /// Does a label, the end of a letter or "Dear" stand right before?
    fn is_labelled(&self, head: &str) -> bool {
        let near = head.trim_end_matches([' ', '\n', '\t']);
        let label = near.ends_with([':', '#']) || near.ends_with("/s/");
        label && self.label.is_match(head)
            || (head.ends_with('\n') || near.ends_with("ear") || near.ends_with("EAR"))
                && self.closing.is_match(head)
    }

    /// Is this run of capitalised words, none a word of notes, a person?
    fn evidence(&self, text: &str, run: &[Word]) -> Option<u8> {
        let (first, last) = (run.first()?, run.last()?);
        let shown = |word: &Word| &text[word.start..word.end];
        let full: Vec<&Word> = run.iter().filter(|word| !word.initial).collect();
        let capitals = full.iter().all(|word| word.capitals);
        let is_listed = |word: &Word| word.flags & (is::GIVEN | is::SURNAME) != 0;
        let listed = full.iter().filter(|word| is_listed(word)).count();
        let clear = full
            .iter()
            .filter(|word| is_listed(word) && word.flags & (is::COMMON | is::STOP) == 0)
            .count();
        let clinical = full.iter().filter(|word| is_clinical(shown(word))).count();
        // "CHF", "MRSA": short capitals on no list are abbreviations.
        let acronyms = full
            .iter()
            .filter(|word| word.capitals && word.end - word.start <= 4 && !is_listed(word))
            .count();
        let acronym = acronyms > 0;
        if full.is_empty() || clinical == full.len() {
            return None;
        }
        let tail = after(text, last.whole_end, 32);
        let head = before(text, first.start, 48);
        let heading = tail.starts_with(':');
        // Most capitalised words begin a sentence: one look at what stands
        // before spares the patterns.
        let near = head.trim_end_matches([' ', '\n', '(', '\t']).bytes().last();
        let goes_on = near.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b',');
        if full.len() < 2
            && !goes_on
            && clear == 0
            && !matches!(near, Some(b':' | b'#' | b'/'))
            && !head.ends_with('\n')
        {
            return None;
        }
        if self.is_labelled(head) {
            let sure = listed > 0 || full.len() >= 2 || run.len() >= 2 || !capitals;
            return (sure && clinical == 0 && !heading && acronyms < full.len())
                .then_some(LABELLED);
        }
        if self.credential.is_match(tail) && (run.len() >= 2 || listed > 0) && clinical == 0 {
            return Some(LABELLED);
        }
        if heading && listed < 2 {
            return None;
        }
        let disease = |names: &Self| {
            names.eponym.is_match(after(text, last.end, 24)) && !names.person_verb.is_match(tail)
        };
        if goes_on && clinical == 0 && !acronym && self.relative.is_match(head) && run.len() <= 4 {
            return (!disease(self)).then_some(LABELLED);
        }
        let is_given = |word: &&Word| word.flags & is::GIVEN != 0;
        let is_surname = |word: &&Word| word.flags & is::SURNAME != 0;
        let two = full.len() >= 2 && clinical == 0 && !acronym;
        if two {
            let given = full.first().filter(|word| is_given(word));
            let surname = full.last().filter(|word| is_surname(word));
            let sure = |word: &&Word| word.flags & (is::COMMON | is::STOP) == 0;
            match (given, surname) {
                (Some(given), Some(surname)) if sure(given) || sure(surname) => {
                    return (!disease(self)).then_some(WEAK);
                }
                (Some(given), _) if sure(given) && !capitals => {
                    return (!disease(self)).then_some(WEAK);
                }
                _ => {}
            }
        }
        if clear == 0 && !two && !goes_on {
            return None;
        }
        let verb = self.person_verb.is_match(tail);
        let cue = goes_on && self.cue.is_match(head);
        if cue && clinical == 0 && !acronym && (two || clear > 0 || named(head) && !capitals) {
            return (!disease(self)).then_some(WEAK);
        }
        let weak = goes_on && self.weak_cue.is_match(head);
        let person = (two && !capitals && (verb || weak && clear > 0))
            || clear > 0 && !capitals && (verb || weak && full.len() == 1);
        (person && clinical == 0 && !acronym && full.len() <= 3 && !disease(self)).then_some(WEAK)
    }

    /// "Miller, Susan B.": in a label, at a line's start, or from the lists.
    fn comma_form(&self, text: &str, words: &[Word], at: usize) -> Option<usize> {
        let second = words.get(at + 1).filter(|word| word.gap == Gap::Comma)?;
        let first = &words[at];
        let shown = |word: &Word| &text[word.start..word.end];
        if first.initial || first.possessive || is_clinical(shown(first)) {
            return None;
        }
        let surname = first.flags & is::SURNAME != 0;
        let given = second.flags & is::GIVEN != 0;
        let unclear = |word: &Word| word.flags & (is::COMMON | is::STOP) != 0;
        let head = before(text, first.start, 48);
        let labelled = self.is_labelled(head);
        let fits = if second.initial {
            surname && after(text, second.end, 1).starts_with('.')
        } else {
            !is_clinical(shown(second))
                && (labelled
                    || surname && given && !(unclear(first) && unclear(second))
                    || given && !unclear(second) && line_start(head)
                    || self.cue.is_match(head) && (given || surname))
        };
        // "Smith, MD" is a name with a degree.
        if !fits || self.credential.is_match(after(text, first.end, 12)) {
            return None;
        }
        let mut last = at + 1;
        while let Some(word) = words.get(last + 1)
            && word.gap == Gap::Joined
            && (word.initial || word.flags & is::GIVEN != 0)
            && last < at + 3
        {
            last += 1;
        }
        Some(last)
    }

    /// "J. Miller", "K.L. Miller".
    fn initials(&self, text: &str, words: &[Word], at: usize) -> Option<usize> {
        let mut last = at;
        while words.get(last).is_some_and(|word| word.initial) {
            let dotted = after(text, words[last].end, 1).starts_with('.');
            last += 1;
            if !dotted || words.get(last)?.gap == Gap::Apart || words.get(last)?.gap == Gap::Comma {
                return None;
            }
        }
        let word = words.get(last)?;
        let shown = &text[word.start..word.end];
        let surname = word.flags & is::SURNAME != 0 && word.flags & is::STOP == 0;
        let cued = self.is_cued(text, words[at].start)
            || self.credential.is_match(after(text, word.end, 12))
            || self.weak_cue.is_match(before(text, words[at].start, 24));
        let eponym = self.eponym.is_match(after(text, word.end, 24));
        (!eponym && !is_clinical(shown) && (surname || cued && !word.capitals)).then_some(last)
    }
}

/// "named" and "Dear" take any capitalised word.
fn named(head: &str) -> bool {
    let head = head.trim_end_matches([' ', '\n', '(']).to_ascii_lowercase();
    ["named", "dear", "name is", "name was", "goes by"]
        .iter()
        .any(|cue| head.ends_with(cue))
}

fn line_start(head: &str) -> bool {
    head.trim_end_matches([' ', '\t']).ends_with('\n') || head.trim().is_empty()
}

/// The last word of the name after a title, if one follows.
fn titled(text: &str, words: &[Word], at: usize) -> Option<usize> {
    let shown = |i: usize| &text[words[i].start..words[i].end];
    let first = words.get(at + 1)?;
    let loose = LOOSE_TITLES.contains(&shown(at));
    let follows = match first.gap {
        Gap::Joined => true,
        Gap::Stop => !loose || shown(at) == "MS",
        Gap::Comma | Gap::Apart => false,
    };
    let word = shown(at + 1);
    if shown(at) == "Miss" && (is_clinical(word) || first.capitals) {
        return None;
    }
    if !follows
        || is_placeholder(word)
        || TITLES.contains(&word) && is_stop(word)
        || loose && (is_clinical(word) || first.initial)
    {
        return None;
    }
    if loose
        && first.flags & (is::GIVEN | is::SURNAME) == 0
        && words.get(at + 2).is_none_or(|next| next.gap != Gap::Joined)
    {
        return None;
    }
    let mut last = at + 1;
    while let Some(next) = words.get(last + 1)
        && last < at + 5
        && !words[last].possessive
        && (next.gap == Gap::Joined || next.gap == Gap::Stop && words[last].initial)
        && (next.initial || !is_stop(shown(last + 1)))
        && !TITLES.contains(&shown(last + 1))
        && (next.initial || !next.capitals || words[last].capitals || words[last].initial)
    {
        last += 1;
    }
    // "Ms. A" names nobody.
    words[at + 1..=last]
        .iter()
        .any(|word| !word.initial)
        .then_some(last)
}

/// The last word of the run that starts at `at`: joined, and not of notes.
fn segment_end(text: &str, words: &[Word], at: usize) -> usize {
    let mut last = at;
    while let Some(next) = words.get(last + 1)
        && last < at + 5
        && !words[last].possessive
        && (next.gap == Gap::Joined || next.gap == Gap::Stop && words[last].initial)
        && (next.initial || !is_stop(&text[next.start..next.end]))
        && !TITLES.contains(&&text[next.start..next.end])
    {
        last += 1;
    }
    last
}

/// The words of a name to look for elsewhere: not initials, not everyday words.
fn remember(text: &str, name: &[Word], known: &mut HashSet<String>) {
    for word in name {
        let shown = &text[word.start..word.end];
        if !word.initial
            && word.end - word.start >= 4
            && word.flags & (is::COMMON | is::STOP) == 0
            && !is_clinical(shown)
        {
            known.insert(shown.to_lowercase());
        }
    }
}
