//! Lives of an installation.
use crate::{Settings, report::Section, simulation::smoke};

pub(crate) fn run(settings: &Settings, section: &mut Section) {
    for seed in 0..settings.seeds.unwrap_or(100) {
        section.count("seeds", 1);
        if let Err(failed) = smoke::run(seed) {
            section.broke(format!("seed {seed}: {}", failed.broken));
        }
    }
}
