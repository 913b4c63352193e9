//! HTML as it is found inside records: fragments, often broken, often no HTML
//! at all ("p < 0.05"). So this is not a parser of documents: what is surely a
//! tag or an entity is resolved, everything else stays as it is.
//!
//! - Tags that begin a block, and `br`, become line breaks; a list's item
//!   becomes `- `; cells of a row are parted by a tab; a power of ten keeps its
//!   meaning (`10<sup>9</sup>` is `10^9`, not `109`); other tags go. So do
//!   comments, and scripts and styles with what is in them.
//! - Entities follow the HTML standard (section 13.2.5, "named" and "numeric
//!   character reference", with its table for numbers that meant windows-1252)
//!   and are resolved once: `&amp;lt;` is the text `&lt;`. A no-break space
//!   becomes a space.
//!
//! A tag has one of HTML's names, or is sure to be a tag by how it is written:
//! it closes (`</x>`, `<x/>`), has a prefix (`<o:p>`) or a quoted value. No tag
//! holds a `<`, so the time is linear in the text whatever is in it.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The text of `html`; none if there is nothing to resolve.
pub(super) fn to_text(html: &str) -> Option<String> {
    if !html.bytes().any(|b| b == b'<' || b == b'&') {
        return None;
    }
    let mut text = Text::default();
    let mut absent = Absent::default();
    let mut rest = html;
    let mut resolved = false;
    while let Some(at) = rest.find(['<', '&']) {
        text.push(&rest[..at]);
        rest = &rest[at..];
        let taken = match rest.as_bytes()[0] {
            b'<' => markup(rest, &mut text, &mut absent),
            _ => entity(rest, &mut text),
        };
        resolved |= taken.is_some();
        let taken = taken.unwrap_or_else(|| {
            text.push(&rest[..1]);
            1
        });
        rest = &rest[taken..];
    }
    text.push(rest);
    resolved.then_some(text.out)
}

/// The text so far.
#[derive(Default)]
struct Text {
    out: String,
    /// Nothing but a line break, or a list item's mark, since the last tag.
    fresh: bool,
}

impl Text {
    fn push(&mut self, text: &str) {
        let text = if self.fresh {
            without_break(text)
        } else {
            text
        };
        self.out.push_str(text);
        self.fresh &= text.is_empty();
    }

    fn break_line(&mut self) {
        self.trim_spaces();
        self.out.push('\n');
        self.fresh = true;
    }

    /// Begins a line, unless this is the beginning of one.
    fn begin_line(&mut self) {
        if !self.fresh {
            self.trim_spaces();
        }
        if !self.fresh && !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.push('\n');
        }
        self.fresh = true;
    }

    fn trim_spaces(&mut self) {
        let length = self.out.trim_end_matches([' ', '\t']).len();
        self.out.truncate(length);
    }
}

/// The text behind a tag that made a line break, without the space and the line
/// end that only lay out the source.
fn without_break(text: &str) -> &str {
    let spaces = [' ', '\t', '\r'];
    let line = text.trim_start_matches(spaces);
    line.strip_prefix('\n')
        .map_or(line, |line| line.trim_start_matches(spaces))
}

/// Ends that a search to the end of the text did not find, so that no later
/// search looks for them again.
#[derive(Default)]
struct Absent {
    comment: bool,
    cdata: bool,
    script: bool,
    style: bool,
}

/// What `rest` has before `end` and the length with it.
fn until<'t>(rest: &'t str, end: &str, absent: &mut bool) -> Option<(&'t str, usize)> {
    let found = (!*absent).then(|| rest.find(end)).flatten();
    *absent |= found.is_none();
    found.map(|at| (&rest[..at], at + end.len()))
}

/// Takes the tag, comment or declaration that `rest` starts with: its length.
fn markup(rest: &str, text: &mut Text, absent: &mut Absent) -> Option<usize> {
    const CDATA: &str = "<![CDATA[";
    if rest.starts_with("<!--") {
        return until(rest, "-->", &mut absent.comment).map(|(_, length)| length);
    }
    if rest.starts_with(CDATA) {
        let (content, length) = until(rest, "]]>", &mut absent.cdata)?;
        text.push(&content[CDATA.len()..]);
        return Some(length);
    }
    let declaration = rest
        .get(..9)
        .is_some_and(|start| start.eq_ignore_ascii_case("<!doctype"));
    if declaration || rest.starts_with("<?xml") {
        let end = rest[1..].find(['<', '>'])? + 1;
        return rest[end..].starts_with('>').then_some(end + 1);
    }
    let tag = Tag::parse(rest)?;
    let after = &rest[tag.length..];
    Some(tag.length + write_tag(&tag, after, text, absent))
}

/// Writes what a tag means, and says how much of what is after it goes too.
fn write_tag(tag: &Tag<'_>, after: &str, text: &mut Text, absent: &mut Absent) -> usize {
    let name = tag.name.to_ascii_lowercase();
    match name.as_str() {
        "br" => text.break_line(),
        "li" if !tag.closes => {
            text.begin_line();
            text.out.push_str("- ");
        }
        "td" | "th" if !tag.closes => {
            let first = text.fresh || text.out.is_empty() || text.out.ends_with(['\n', '\t']);
            if !first {
                text.out.push('\t');
            }
        }
        "sup" if !tag.closes => {
            let power = after.starts_with(|c: char| c.is_ascii_digit() || "+-−".contains(c));
            if power && text.out.ends_with(|c: char| c.is_ascii_digit()) {
                text.out.push('^');
            }
        }
        "script" if !tag.closes => {
            return until(after, "</script", &mut absent.script).map_or(0, |(gone, _)| gone.len());
        }
        "style" if !tag.closes => {
            return until(after, "</style", &mut absent.style).map_or(0, |(gone, _)| gone.len());
        }
        name if BLOCKS.contains(&name) => text.begin_line(),
        _ => {}
    }
    0
}

/// A tag as it is written.
struct Tag<'t> {
    name: &'t str,
    closes: bool,
    length: usize,
}

impl<'t> Tag<'t> {
    fn parse(html: &'t str) -> Option<Self> {
        let closes = html.starts_with("</");
        let start = 1 + usize::from(closes);
        let name = &html[start..start + name_length(&html[start..])];
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return None;
        }
        let mut rest = &html[start + name.len()..];
        // A closing tag of any name is one; `<patient>` may well be text.
        let mut sure = closes || name.contains(':') || is_known(name);
        loop {
            let trimmed = rest.trim_start();
            if let Some(end) = trimmed.strip_prefix("/>") {
                sure = true;
                rest = end;
                break;
            }
            if let Some(end) = trimmed.strip_prefix('>') {
                rest = end;
                break;
            }
            if closes || trimmed.len() == rest.len() {
                return None;
            }
            let (after, quoted) = attribute(trimmed)?;
            sure |= quoted;
            rest = after;
        }
        sure.then(|| Tag {
            name,
            closes,
            length: html.len() - rest.len(),
        })
    }
}

/// Skips one attribute: what is behind it, and whether its value is quoted.
fn attribute(text: &str) -> Option<(&str, bool)> {
    let name = &text[..name_length(text)];
    let rest = &text[name.len()..];
    let Some(value) = rest.trim_start().strip_prefix('=') else {
        let flag = FLAGS.contains(&name.to_ascii_lowercase().as_str());
        return flag.then_some((rest, false));
    };
    if name.is_empty() {
        return None;
    }
    let value = value.trim_start();
    let quote = value.chars().next()?;
    if quote == '"' || quote == '\'' {
        let inside = &value[1..];
        let end = inside.find([quote, '<'])?;
        let rest = inside[end..].strip_prefix(quote)?;
        return Some((rest, true));
    }
    let end = value.find(|c: char| c.is_whitespace() || "<>\"'".contains(c))?;
    (end > 0).then(|| (&value[end..], false))
}

fn name_length(text: &str) -> usize {
    text.bytes()
        .take_while(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b':' | b'_'))
        .count()
}

fn is_known(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    BLOCKS.contains(&name.as_str()) || INLINE.contains(&name.as_str())
}

/// Elements that begin and end a line.
const BLOCKS: [&str; 49] = [
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "caption",
    "center",
    "dd",
    "details",
    "dialog",
    "dir",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "head",
    "header",
    "hgroup",
    "hr",
    "html",
    "legend",
    "li",
    "main",
    "menu",
    "nav",
    "ol",
    "optgroup",
    "option",
    "p",
    "pre",
    "section",
    "summary",
    "table",
    "tbody",
    "tfoot",
    "thead",
    "title",
    "tr",
    "ul",
];

/// Elements that do not.
const INLINE: [&str; 71] = [
    "a", "abbr", "acronym", "area", "audio", "b", "base", "basefont", "bdi", "bdo", "big", "br",
    "button", "canvas", "cite", "code", "col", "colgroup", "data", "datalist", "del", "dfn", "em",
    "embed", "font", "i", "iframe", "img", "input", "ins", "kbd", "label", "link", "map", "mark",
    "meta", "meter", "nobr", "noscript", "object", "output", "param", "picture", "progress", "q",
    "rp", "rt", "ruby", "s", "samp", "script", "select", "small", "source", "span", "strike",
    "strong", "style", "sub", "sup", "svg", "td", "template", "textarea", "th", "time", "tt", "u",
    "var", "video", "wbr",
];

/// Attributes that need no value.
const FLAGS: [&str; 20] = [
    "async",
    "autofocus",
    "autoplay",
    "checked",
    "compact",
    "controls",
    "default",
    "defer",
    "disabled",
    "hidden",
    "ismap",
    "loop",
    "multiple",
    "muted",
    "nohref",
    "noshade",
    "nowrap",
    "readonly",
    "required",
    "selected",
];

/// The standard's names and what they stand for; in `entities.txt` in hex.
/// (quick-xml has a table too, but its version 0.42 has every Greek and Cyrillic
/// letter wrong: `&alpha;` is `;` there.)
static ENTITIES: LazyLock<HashMap<&str, String>> = LazyLock::new(|| {
    let entity = |line: &'static str| {
        let (name, characters) = line.split_once(' ')?;
        let characters = characters
            .split(' ')
            .map(|hex| u32::from_str_radix(hex, 16).map(referred).ok());
        Some((name, characters.collect::<Option<String>>()?))
    };
    include_str!("entities.txt")
        .lines()
        .filter_map(entity)
        .collect()
});

/// What the entity `&name;` stands for.
pub(crate) fn named_entity(name: &str) -> Option<&'static str> {
    ENTITIES.get(name).map(String::as_str)
}

/// Takes the entity that `rest` starts with: its length.
fn entity(rest: &str, text: &mut Text) -> Option<usize> {
    if rest.starts_with("&#") {
        return numeric(rest, text);
    }
    let letters = rest[1..].bytes().take(32);
    let end = 1 + letters.take_while(u8::is_ascii_alphanumeric).count();
    let name = &rest[1..end];
    let closed = rest[end..].starts_with(';');
    // The standard knows these few without a semicolon, from before there was one.
    if !closed && !matches!(name, "amp" | "lt" | "gt" | "quot" | "nbsp") {
        return None;
    }
    text.push(ENTITIES.get(name)?);
    Some(end + usize::from(closed))
}

fn numeric(rest: &str, text: &mut Text) -> Option<usize> {
    let hex = rest[2..].starts_with(['x', 'X']);
    let (start, radix) = if hex { (3, 16) } else { (2, 10) };
    let digits = rest[start..]
        .chars()
        .take_while(|c| c.is_digit(radix))
        .count();
    if digits == 0 {
        return None;
    }
    let end = start + digits;
    let number = rest[start..end]
        .chars()
        .filter_map(|c| c.to_digit(radix))
        .fold(0u32, |n, digit| {
            n.saturating_mul(radix).saturating_add(digit)
        });
    text.push(referred(number).encode_utf8(&mut [0; 4]));
    Some(end + usize::from(rest[end..].starts_with(';')))
}

/// The character that a number refers to.
fn referred(number: u32) -> char {
    // Windows-1252's characters 0x80 to 0x9f; those it lacks stay controls.
    const WINDOWS: [u16; 32] = [
        0x20ac, 0x81, 0x201a, 0x192, 0x201e, 0x2026, 0x2020, 0x2021, 0x2c6, 0x2030, 0x160, 0x2039,
        0x152, 0x8d, 0x17d, 0x8f, 0x90, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014,
        0x2dc, 0x2122, 0x161, 0x203a, 0x153, 0x9d, 0x17e, 0x178,
    ];
    let number = match number {
        0xa0 => 0x20,
        0x80..=0x9f => u32::from(WINDOWS[number as usize - 0x80]),
        0 => 0xfffd,
        number => number,
    };
    char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::to_text;

    fn text(html: &str) -> String {
        to_text(html).unwrap_or_else(|| panic!("nothing resolved in {html}"))
    }

    #[test]
    fn what_is_not_html_stays() {
        for plain in [
            "p < 0.05 and n > 3",
            "p<0.05",
            "a <b and c> d",
            "x <y> z",
            "<patient name>",
            "<http://a.b/c>",
            "<3 <- <= <",
            "AT&T, R&D; &unknown; &#; &#x; &",
            "<a href=\"x",
            "<!-- no end",
            "<b",
            "<p <q",
            "</ b>",
        ] {
            assert_eq!(to_text(plain), None, "{plain}");
        }
    }

    #[test]
    fn entities_are_resolved_once() {
        assert_eq!(text("a &lt; b &amp;lt; c"), "a < b &lt; c");
        assert_eq!(text("&lt;b&gt;"), "<b>");
        assert_eq!(text("&alpha;&ge;&nbsp;&eacute;&hellip;"), "α≥ é…");
        assert_eq!(text("&#945;&#x3B1;&#X3b1;"), "ααα");
        assert_eq!(text("don&#39t &#146;&#x80;&#150;"), "don't ’€–");
        assert_eq!(
            text("&#0;&#xD800;&#1114112;&#99999999999999999999;"),
            "\u{fffd}".repeat(4)
        );
        assert_eq!(text("a&nbsp b &amp c"), "a  b & c");
    }

    #[test]
    fn every_named_entity_is_there() {
        assert_eq!(super::ENTITIES.len(), 2125);
        for (entity, character) in [
            ("&AElig;", "Æ"),
            ("&zwnj;", "\u{200c}"),
            ("&mu;", "μ"),
            ("&ocy;", "о"),
            ("&Ascr;", "𝒜"),
            ("&acE;", "\u{223e}\u{333}"),
        ] {
            assert_eq!(text(entity), character, "{entity}");
        }
    }

    #[test]
    fn tags_become_lines() {
        assert_eq!(
            text("<UL class='x'>\n <li>a</li>\n <LI><p>b</p></LI></UL>\n\nc"),
            "- a\n- b\n\nc"
        );
        assert_eq!(
            text("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>"),
            "a\tb\nc\n"
        );
        assert_eq!(
            text("a <b>bold</b> and <a href=\"x?a>b\">link</a>"),
            "a bold and link"
        );
        assert_eq!(
            text("10<sup>9</sup>/L, 10<sup>-3</sup>, 5<sup>th</sup>, m<sup>2</sup>"),
            "10^9/L, 10^-3, 5th, m2"
        );
        assert_eq!(
            text("a<!-- <p>gone --> b<!DOCTYPE html><?xml version='1'?>"),
            "a b"
        );
        assert_eq!(
            text("a<script>if (a<b) {}</script>b<STYLE>p{}</style>c"),
            "abc"
        );
        assert_eq!(text("<![CDATA[a <p> b]]>"), "a <p> b");
        assert_eq!(
            text("<o:p></o:p><st1:place w:st=\"on\">Rome</st1:place><x/>"),
            "Rome"
        );
    }

    #[test]
    fn hostile_markup_takes_linear_time() {
        for part in [
            "<",
            "<a ",
            "<!--",
            "<![CDATA[",
            "<script>",
            "<a b=\"",
            "<a b='\"",
            "<a b=\"<a ' ",
            "&#1",
            "&a",
            "<?xml",
            "<li>",
            "<a b=c ",
            "</",
        ] {
            let html = part.repeat(200_000);
            let _ = to_text(&html);
        }
    }
}
