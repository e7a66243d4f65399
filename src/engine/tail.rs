//! The last lines of a container's output, as text that can be displayed and stored.

use futures_util::StreamExt;

use super::{Engine, EngineResult, LogRequest};
use crate::domain::ids::ContainerId;

/// The last `lines` lines of a container's standard output and standard error, in the engine's order, limited to the
/// last `max_bytes` bytes.
///
/// Invalid UTF-8 becomes U+FFFD. Control characters other than line feed and tab are removed, so that the text cannot
/// control a terminal. The caller sets the deadline: an engine may stop sending in the middle of a log.
pub async fn log_tail(
    engine: &dyn Engine,
    id: &ContainerId,
    lines: u32,
    max_bytes: usize,
) -> EngineResult<String> {
    // Lines may have any length, so the number of bytes is limited too. Twice the result's limit is read, because
    // cleaning removes control characters. Only invalid UTF-8 becomes longer.
    let window = max_bytes.saturating_mul(2);
    let request = LogRequest { tail: Some(lines), follow: false, max_bytes: Some(log_bytes(window)) };
    let mut log = engine.logs(id, request).await?;
    let mut end = Vec::new();
    while let Some(chunk) = log.next().await {
        end.extend(chunk?.bytes);
        end.drain(..end.len().saturating_sub(window));
    }
    Ok(clean(&end, max_bytes))
}

/// Number of bytes at the log's end that are searched for the lines. It is larger than the window, because each line of
/// the log also has a timestamp.
fn log_bytes(window: usize) -> u64 {
    (window as u64).saturating_mul(8).max(64 << 10)
}

fn clean(bytes: &[u8], max_bytes: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let clean: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    let from = clean.len().saturating_sub(max_bytes);
    // A boundary is always found, because the end of the text is one.
    let from = (from..=clean.len()).find(|at| clean.is_char_boundary(*at)).unwrap_or(clean.len());
    clean[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_removed_from_log_tail() {
        let written = b"\x1b[31mred\x07\r\n\ttab \xc2\x9b \x7f\x00end\n";
        assert_eq!(clean(written, 100), "[31mred\n\ttab  end\n");
    }

    #[test]
    fn invalid_utf8_in_log_tail_is_replaced() {
        assert_eq!(clean(b"a\xff\xfeb", 100), "a\u{fffd}\u{fffd}b");
    }

    #[test]
    fn log_tail_keeps_the_end_without_splitting_characters() {
        assert_eq!(clean("aé€😀".as_bytes(), 100), "aé€😀");
        for (max_bytes, kept) in
            [(10, "aé€😀"), (9, "é€😀"), (8, "€😀"), (7, "€😀"), (6, "😀"), (3, ""), (0, "")]
        {
            assert_eq!(clean("aé€😀".as_bytes(), max_bytes), kept, "{max_bytes}");
        }
    }
}
