//! Accepting an engine: its sentinel is made, and from then on it is the one to be trusted.

use super::{OpError, OpResult, Ops};
use crate::{crash_point, engine::trusted};

impl Ops {
    /// A person says that the engine which answers now is the one to work with.
    ///
    /// # Errors
    /// When it does not answer, or the store cannot.
    pub async fn accept_engine(&self) -> OpResult<()> {
        let info = self.0.engine.describe().await?;
        crash_point::before("accept: make the sentinel");
        trusted::accept(&*self.0.engine, self.0.settings().instance).await?;
        crash_point::after("accept: make the sentinel");
        let engine = format!("{} at {}", info.version, info.address);
        self.0.store.accept_engine(self.0.clock.now(), engine).await?;
        let unwritable = |error: std::io::Error| OpError::Mirror(error.to_string());
        crash_point::before("accept: write the mirror");
        self.0.mirror.update(|record| record.engine_accepted = true).map_err(unwritable)?;
        crash_point::after("accept: write the mirror");
        Ok(())
    }

    /// Accepts the first engine this registry ever meets. Answers `false` when one was accepted before.
    ///
    /// # Errors
    /// When it does not answer, or the store cannot.
    pub async fn accept_first_engine(&self) -> OpResult<bool> {
        let accepted =
            self.0.store.registry().await?.is_none_or(|registry| registry.engine_accepted_at.is_some());
        if accepted {
            return Ok(false);
        }
        self.accept_engine().await.map(|()| true)
    }
}
