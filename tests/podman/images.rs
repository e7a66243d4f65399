//! Images in the engine.

use std::sync::Mutex;

use ostler::engine::{Engine, ErrorKind};

use super::Scene;
use crate::support::podman::image;

#[tokio::test]
async fn has_image_distinguishes_existing_and_missing_images() {
    let scene = Scene::new();
    assert!(scene.engine.has_image(image()).await.unwrap());
    for missing in ["localhost/ostler-no-such-image:1", "not an image", "a?b", ""] {
        assert!(!scene.engine.has_image(missing).await.unwrap(), "{missing:?}");
    }
}

/// podman-api returns success for a failed pull; the error is in the report.
#[tokio::test]
async fn failed_pull_returns_image_missing_error() {
    let scene = Scene::new();
    // Port 1 of this machine refuses connections at once, so that the test needs no network.
    for image in ["127.0.0.1:1/ostler-none:1", "NOT an image"] {
        let received = Mutex::new(Vec::new());
        let progress = |line: &str| received.lock().unwrap().push(line.to_owned());
        let error = scene.engine.pull_image(image, &progress).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::ImageMissing, "{error}");
        assert!(!error.message.is_empty() && error.call.contains(image), "{error:?}");
    }
}
