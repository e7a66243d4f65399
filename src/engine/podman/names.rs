//! Names that can be part of an address unescaped.

use super::{
    super::{EngineError, EngineResult, ErrorKind},
    errors::one_line,
};

/// Returns the name if it can be part of an address unescaped. Podman itself allows no other names.
pub(super) fn plain<'a>(call: &str, name: &'a str) -> EngineResult<&'a str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(allowed) {
        Ok(name)
    } else {
        Err(EngineError::new(
            ErrorKind::Other,
            call,
            format!("`{}` is not a valid Podman name", one_line(name)),
        ))
    }
}

/// Whether this is a valid image reference that can be part of an address unescaped.
pub(super) fn is_image_reference(image: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ':' | '@');
    image.starts_with(|c: char| c.is_ascii_alphanumeric())
        && image.chars().all(allowed)
        && !["..", "//"].iter().any(|part| image.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// podman-api panics on a name with a space; a name with `?` or `..` would change the request.
    #[test]
    fn name_with_unsafe_characters_is_refused() {
        for good in ["v", "ostler-6f1c_x.y-work", "0"] {
            assert!(plain("try", good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "x?z=1", "../x", "a/b", ".", "-a", "é", "a%2F"] {
            assert!(plain("try", bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn invalid_image_reference_is_refused() {
        for good in ["busybox", "localhost/a/b:latest", "host:5000/a@sha256:00ff"] {
            assert!(is_image_reference(good), "{good}");
        }
        for bad in ["", "a b", "a?b", "../a", "a/../b", "a//b", "/a", "a#b"] {
            assert!(!is_image_reference(bad), "{bad:?} was accepted");
        }
    }
}
