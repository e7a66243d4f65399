//! Results of the campaigns: a section each, as JSON and as a page.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::page;

/// How often something was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) what: String,
    pub(crate) count: u64,
}

/// Related rows, such as each invariant and how often it was checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// One campaign: what it did, and its violations.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Section {
    /// Name on the command line.
    pub(crate) campaign: String,
    /// Title in the report.
    pub(crate) title: String,
    /// Description in one sentence.
    pub(crate) what: String,
    pub(crate) counts: Vec<Count>,
    pub(crate) tables: Vec<Table>,
    /// Violations; empty if there were none.
    pub(crate) broken: Vec<String>,
    pub(crate) took_seconds: f64,
}

impl Section {
    pub(crate) fn new(campaign: &str, title: &str, what: &str) -> Self {
        Self { campaign: campaign.into(), title: title.into(), what: what.into(), ..Self::default() }
    }

    /// Adds to a counter, which starts at zero.
    pub(crate) fn count(&mut self, what: impl Into<String>, more: u64) {
        let what = what.into();
        match self.counts.iter_mut().find(|count| count.what == what) {
            Some(count) => count.count += more,
            None => self.counts.push(Count { what, count: more }),
        }
    }

    pub(crate) fn table<const N: usize>(
        &mut self,
        title: &str,
        columns: [&str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) {
        let columns = columns.map(str::to_owned).to_vec();
        let rows = rows.into_iter().map(|row| row.to_vec()).collect();
        self.tables.push(Table { title: title.into(), columns, rows });
    }

    /// Records a violation.
    pub(crate) fn broke(&mut self, how: impl Into<String>) {
        self.broken.push(how.into());
    }

    /// Records a violation if `holds` is false.
    pub(crate) fn expect(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.broke(otherwise());
        }
    }
}

/// All sections of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) long: bool,
    pub(crate) sections: Vec<Section>,
}

/// Directory of the reports, in cargo's target directory.
pub(crate) fn directory() -> PathBuf {
    let target =
        Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the directory is in the target directory");
    target.join("assurance")
}

impl Report {
    /// Writes the report as JSON and as a page; returns the path of the page.
    pub(crate) fn write(&self) -> io::Result<PathBuf> {
        let directory = directory();
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("report.json"), serde_json::to_string_pretty(self)?)?;
        let path = directory.join("report.html");
        fs::write(&path, page::of(self))?;
        Ok(path)
    }
}
