//! Accepting an engine: the sentinel is created in it, and from then on this engine is trusted.

use super::{OpError, OpResult, Ops};
use crate::{engine::trusted, testing::crash_point};

impl Ops {
    /// Accepts the engine that answers now, by order of an operator.
    ///
    /// # Errors
    /// If the engine gives no answer, the store fails, or the mirror file cannot be written.
    pub async fn accept_engine(&self) -> OpResult<()> {
        let info = self.0.engine.describe().await?;
        crash_point::before("accept: create the sentinel");
        trusted::accept(&*self.0.engine, self.0.settings().instance).await?;
        crash_point::after("accept: create the sentinel");
        let engine = format!("{} at {}", info.version, info.address);
        self.0.store.accept_engine(self.0.clock.now(), engine).await?;
        let unwritable = |error: std::io::Error| OpError::Mirror(error.to_string());
        crash_point::before("accept: write the mirror");
        self.0.mirror.update(|record| record.engine_accepted = true).map_err(unwritable)?;
        crash_point::after("accept: write the mirror");
        Ok(())
    }

    /// Accepts the engine that answers now if this registry has never accepted one. Returns `false` if an engine was
    /// accepted before.
    ///
    /// # Errors
    /// If the engine gives no answer, the store fails, or the mirror file cannot be written.
    pub async fn accept_first_engine(&self) -> OpResult<bool> {
        let accepted =
            self.0.store.registry().await?.is_none_or(|registry| registry.engine_accepted_at.is_some());
        if accepted {
            return Ok(false);
        }
        self.accept_engine().await.map(|()| true)
    }
}
