//! Sanitises text from agents, containers and other external sources for output, and detects hidden characters in
//! names.
//!
//! All printed text is sanitised by this module only. Text is stored and returned as it was received. Only output to a
//! terminal and text that is inserted into a message is sanitised.

use std::borrow::Cow;

/// Where the result of [`terminal_safe`] is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Within one line: line breaks and tabs become spaces, so that a text cannot imitate a line of output.
    Line,
    /// As separate lines: line feeds and tabs are kept, `\r\n` becomes `\n`.
    Lines,
}

/// Removes or replaces characters that could change the terminal's earlier output or hide text.
///
/// Control sequences for colours and cursor movements (`ESC [ …` up to the final byte) are removed. Other control
/// characters, characters that change the text direction and characters without a glyph become U+FFFD. Of an operating
/// system command (`ESC ] …`), only the control characters are replaced, and its text stays visible. If everything up
/// to the command's terminator were removed, a command without a terminator would hide all text after it.
#[must_use]
pub fn terminal_safe(text: &str, layout: Layout) -> Cow<'_, str> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len());
    let mut before = ' ';
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' if rest.next_if_eq(&'[').is_some() => {
                // Skips only the parameter and intermediate bytes of the sequence, so that a truncated sequence does
                // not remove the text after it.
                while rest.next_if(|c| matches!(c, ' '..='?')).is_some() {}
                let _final_byte = rest.next_if(|c| matches!(c, '@'..='~'));
            }
            '\r' if rest.peek() == Some(&'\n') => {}
            '\n' | '\t' if layout == Layout::Lines => clean.push(c),
            '\n' | '\t' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}'
                if layout == Layout::Line =>
            {
                if !clean.ends_with(' ') {
                    clean.push(' ');
                }
            }
            c if joins(c) && before >= FIRST_JOINED => clean.push(c),
            c if c.is_control() || is_hidden(c) => clean.push(char::REPLACEMENT_CHARACTER),
            c => clean.push(c),
        }
        before = c;
    }
    Cow::Owned(clean)
}

/// First character after which a joiner or variation selector is kept. Emoji and the scripts from this character on
/// need them. Latin, Greek and Cyrillic text never does: a joiner there could only make two different texts look the
/// same.
const FIRST_JOINED: char = '\u{590}';

/// Whether a character is a joiner or a variation selector, which emoji and several scripts need.
fn joins(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe0e}' | '\u{fe0f}')
}

/// Whether a character has no glyph or changes how the text around it is displayed: Unicode's default ignorable code
/// points, line and paragraph separators, the blank Braille pattern and interlinear annotation marks.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        terminal_safe(text, Layout::Line).into_owned()
    }

    fn lines(text: &str) -> String {
        terminal_safe(text, Layout::Lines).into_owned()
    }

    #[test]
    fn escape_sequences_are_removed_or_replaced() {
        assert_eq!(lines("a\x1b[2Jb\r\n\tc\x1b[1;31m!\x1b[0m"), "ab\n\tc!");
        assert_eq!(lines("a\x1b]0;title\x07b\r!\x1b["), "a\u{fffd}]0;title\u{fffd}b\u{fffd}!");
        assert_eq!(line("\u{9b}2J\u{90}q\x1bPq\x1b\\"), "\u{fffd}2J\u{fffd}q\u{fffd}Pq\u{fffd}\\");
        assert_eq!(line("a\x1b[31é"), "aé", "a truncated escape sequence hides no text");
    }

    #[test]
    fn single_line_text_cannot_start_a_new_line() {
        for end in ["\n", "\r\n", "\r", "\u{b}", "\u{c}", "\u{85}", "\u{2028}", "\u{2029}", "\t", "\n\n \r"] {
            assert_eq!(line(&format!("a{end}b")).replace("  ", " "), "a b", "{end:?}");
        }
    }

    #[test]
    fn hidden_and_bidirectional_characters_are_replaced() {
        for hidden in
            ["\u{202e}", "\u{2066}", "\u{2069}", "\u{200b}", "\u{200f}", "\u{feff}", "\u{3164}", "\u{e0041}"]
        {
            assert_eq!(line(&format!("a{hidden}b")), "a\u{fffd}b", "{hidden:?}");
        }
        assert_eq!(line("pay\u{200d}pal"), "pay\u{fffd}pal", "a joiner between Latin letters is replaced");
    }

    #[test]
    fn ordinary_text_passes_unchanged() {
        for text in ["plain", "équipe 設計 Ωμέγα", "👩‍👩‍👧 ❤️ fine", "نامه‌ای", "naïve “quotes” – dash"]
        {
            assert_eq!(line(text), text);
        }
    }
}
