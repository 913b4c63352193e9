//! Places smaller than a state: street addresses, cities, counties, ZIP codes.

use regex::Regex;

use super::PhiClass::Place;
use super::lists::{BIG_CITIES, COUNTRIES, STATE_CODES, STATES, is_stop};
use super::{Candidate, SHAPE, WEAK, pattern};

#[derive(Debug)]
pub(super) struct Places {
    address: Regex,
    named: Regex,
    city_state: Regex,
    zip: Regex,
    cue: Regex,
}

/// A capitalised word, in capitals or not.
const WORD: &str = r"(?:(?:St|Ft|Mt)\.|[A-Z][A-Za-z'-]*[A-Za-z])";

impl Places {
    pub(super) fn new() -> Self {
        let suffix = "Street|St|Avenue|Ave|Boulevard|Blvd|Road|Rd|Drive|Dr|Lane|Ln|Court|Ct|Place|Pl|Square|Sq|Terrace|Ter|Way|Circle|Cir|Highway|Hwy|Parkway|Pkwy|Trail|Trl|Turnpike|Pike|Crescent|Loop|Row|Alley|Plaza|Commons|Crossing|Path|Run|Walk|STREET|ST|AVENUE|AVE|BOULEVARD|BLVD|ROAD|RD|DRIVE|DR|LANE|LN|COURT|CT|PLACE|PL|WAY|TERRACE|CIRCLE|PARKWAY|HIGHWAY";
        let full = "Street|Avenue|Boulevard|Road|Drive|Lane|Court|Terrace|Highway|Parkway|Turnpike|Blvd|Ave|Rd";
        let unit = r"(?:,?[ \n](?:Apt|Apartment|Suite|Ste|Unit|Room|Rm|Floor|Fl|APT|UNIT|SUITE)\.? ?#?[A-Z0-9-]{1,6}\b|,? ?#[A-Z0-9-]{1,6}\b)?";
        let states = STATES.join("|").replace(' ', r"[ \n]");
        let codes = STATE_CODES.join("|");
        Self {
            address: pattern(&format!(
                r"(?-u)\b\d{{1,6}}[A-Z]?(?:-\d{{1,4}})?[ \n](?:(?:[NSEW]|NE|NW|SE|SW|North|South|East|West)\.?[ \n])?(?:(?:{WORD}|\d{{1,3}}(?:st|nd|rd|th))[ \n]){{1,4}}(?:{suffix})\b\.?(?: (?:[NSEW]|NE|NW|SE|SW|North|South|East|West)\b)?{unit}|\b[Pp]\.? ?[Oo]\.?[ \n][Bb](?:ox|OX)[ \n]?#?\d{{1,6}}\b|\b(?:RR ?#?\d{{1,3}},? Box \d{{1,5}}|Rural Route ?#?\d{{1,3}})\b|\b\d{{1,6}} (?:Broadway|Route \d{{1,4}}|Highway \d{{1,4}})\b{unit}"
            )),
            named: pattern(&format!(
                r"(?-u)\b(?:on|at|near|off|from|along)(?: the corner of)?[ \n]((?:{WORD} ){{1,3}}(?:{full}))\b|\b((?:{WORD} ){{1,2}}County)\b|\b[Cc](?:ity|ounty|ITY) of ({WORD}(?: {WORD})?)|\b(?:[Cc]ity|[Tt]own|[Cc]ounty|[Hh]ometown|[Bb]irthplace|CITY)[ \t]*:[ \t]*({WORD}(?: {WORD}){{0,2}})"
            )),
            city_state: pattern(&format!(
                r"(?-u)\b({WORD}(?:[ -]{WORD}){{0,2}}),?[ \n]{{1,2}}(?:({codes})|({states}))\b(?:,?[ \n]{{1,2}}(\d{{5}}(?:-\d{{4}})?)\b)?"
            )),
            zip: pattern(&format!(
                r"(?-u)\b(?:{codes}|{states}),?[ \n]{{1,2}}(\d{{5}}(?:-\d{{4}})?)\b"
            )),
            cue: pattern(&format!(
                r"(?-u)\b(?:[Ll]iv(?:es|ed|ing)|[Rr]esid(?:es|ed|ing|ent)|[Bb]orn|[Rr]aised|grew up|[Mm]ov(?:ed|ing)|[Rr]elocat(?:ed|ing)|[Tt]ravel(?:l?ed|s|l?ing)?|[Nn]ative|[Hh]ome|[Vv]isit(?:ed|ing)|[Ww]ork(?:s|ed|ing)?|[Ee]mployed|[Oo]riginally|[Hh]ail(?:s|ing)|[Dd]riv(?:es|ing)|[Ff]arm|[Hh]ouse|[Aa]partment|[Hh]omeless|[Ss]helter|[Ss]chool|[Rr]etired|[Ff]ire station|is|was|comes|came)(?:[ \n](?:alone|with (?:his|her) \w+|up|back|out|over|here|there))?[ \n](?:in|to|from|of|near|outside|outside of|around)[ \n]((?:{WORD})(?:[ -]{WORD}){{0,2}})"
            )),
        }
    }

    pub(super) fn find(&self, text: &str, out: &mut Vec<Candidate>) {
        let mut push = |start, end, rank| {
            out.push(Candidate {
                class: Place,
                start,
                end,
                rank,
            });
        };
        for found in self.address.find_iter(text) {
            // "5 Days Post Op Ct" has no word that a street could be called by.
            let mut words = found.as_str().split_ascii_whitespace().skip(1);
            if words.next().is_some_and(|word| !is_stop(word)) || words.any(|word| !is_stop(word)) {
                push(found.start(), found.end(), SHAPE + 1);
            }
        }
        for found in self.named.captures_iter(text) {
            if let Some(span) = found.iter().skip(1).flatten().next()
                && !span.as_str().split(' ').next().is_some_and(is_stop)
            {
                push(span.start(), span.end(), SHAPE);
            }
        }
        for found in self.city_state.captures_iter(text) {
            let city = found.get(1).expect("the city's group");
            let zip = found.get(4);
            let state = found.get(2).or(found.get(3)).expect("code or name");
            let Some(start) = city_start(city.as_str()).map(|skip| city.start() + skip) else {
                continue;
            };
            if zip.is_none() && !self.is_city(text, &found, start) {
                continue;
            }
            // A state is not smaller than a state; between a city and its ZIP
            // code it goes with them.
            let end = zip.map_or(state.end(), |zip| zip.end());
            push(start, end, SHAPE);
        }
        for found in self.zip.captures_iter(text) {
            let zip = found.get(1).expect("the code's group");
            push(zip.start(), zip.end(), SHAPE);
        }
        for found in self.cue.captures_iter(text) {
            let place = found.get(1).expect("the place's group");
            if let Some(end) = self.cued_place(place.as_str()) {
                push(place.start(), place.start() + end, WEAK);
            }
        }
    }

    /// Without a ZIP code, is "Xyz, PA" a city or a person with a degree?
    fn is_city(&self, text: &str, found: &regex::Captures<'_>, start: usize) -> bool {
        let city = found.get(1).expect("the city's group");
        let name = &text[start..city.end()];
        let comma = text[city.end()..].starts_with(',');
        if name.bytes().filter(u8::is_ascii_lowercase).count() == 0 {
            return false;
        }
        // In a list of states.
        if STATES.contains(&name) && name != "New York" {
            return false;
        }
        if BIG_CITIES.contains(&name) {
            return true;
        }
        if !comma {
            return false;
        }
        let Some(code) = found.get(2) else {
            return true;
        };
        let head = super::before(text, start, 12).to_ascii_lowercase();
        let cue = ["in ", "from ", "of ", "to ", "at ", "near "]
            .iter()
            .any(|word| head.ends_with(word));
        // Two letters that are also degrees or words.
        cue || !matches!(
            code.as_str(),
            "MD" | "PA"
                | "OR"
                | "IN"
                | "OK"
                | "ME"
                | "HI"
                | "ID"
                | "MS"
                | "MA"
                | "CO"
                | "DC"
                | "PR"
        ) || matches!(code.as_str(), "MA" | "CO" | "DC" | "IN")
            && text[..start].ends_with(['\n', ',', ' '])
            && !name.contains(' ')
    }

    /// How much of a capitalised phrase after "lives in" is a place of
    /// interest.
    fn cued_place(&self, phrase: &str) -> Option<usize> {
        let mut end = 0;
        for word in phrase.split_inclusive([' ', '-']) {
            let bare = word.trim_end_matches([' ', '-', '.']);
            if is_stop(bare) || bare.len() < 3 && bare != "St" {
                break;
            }
            end += word.len();
        }
        let place = phrase[..end].trim_end_matches([' ', '-', '.']);
        let acronym = place.bytes().all(|b| b.is_ascii_uppercase());
        let known = COUNTRIES.contains(&place) || STATES.contains(&place);
        (!place.is_empty() && !acronym && !known).then_some(place.len())
    }
}

/// Drops words in front that no city has: "Address Springfield".
fn city_start(phrase: &str) -> Option<usize> {
    let mut skip = 0;
    for word in phrase.split_inclusive([' ', '-']) {
        if !is_stop(word.trim_end_matches([' ', '-', '.'])) {
            return Some(skip);
        }
        skip += word.len();
    }
    None
}
