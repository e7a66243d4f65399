//! What the calls for images do to the fake engine.

use ostler::engine::{EngineError, EngineResult, ErrorKind};

use super::state::State;

impl State {
    pub(super) fn has_image(&self, image: &str) -> bool {
        self.images.contains(image)
    }

    pub(super) fn pull_image(&mut self, image: String) -> EngineResult<()> {
        if self.pullable.contains(&image) {
            self.images.insert(image);
            Ok(())
        } else {
            Err(EngineError::new(ErrorKind::ImageMissing, format!("pull image {image}"), "manifest unknown"))
        }
    }
}
