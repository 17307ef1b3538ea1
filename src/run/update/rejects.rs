//! The keys that were not updated, in a file that can be the input of the next run.
//!
//! CSV: the input's columns under their names, then `class`, `line` and `reason`.

use std::fs::{File, Metadata};
use std::io::BufWriter;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::keys::Item;
use crate::decide::chunk::Class;
use crate::error::Error;

pub(crate) struct Rejects {
    file: csv::Writer<BufWriter<File>>,
    /// Once writing has failed nothing more is written, and the run says so.
    problem: Option<std::io::Error>,
}

impl Rejects {
    /// Replaces the file; its header is written at once.
    pub(crate) fn create(path: &Path, inputs: &[String]) -> Result<Self, Error> {
        let cannot = |error: &dyn std::fmt::Display| {
            Error::configuration("rejects", format!("cannot write {}: {error}", path.display()))
        };
        let file = File::create(path).map_err(|error| cannot(&error))?;
        let mut file = csv::Writer::from_writer(BufWriter::new(file));
        let header = inputs.iter().map(String::as_str).chain(["class", "line", "reason"]);
        file.write_record(header).map_err(|error| cannot(&error))?;
        file.flush().map_err(|error| cannot(&error))?;
        Ok(Self { file, problem: None })
    }

    /// Refuses a file that the keys are read from: it would be emptied before it is read.
    pub(crate) fn check(path: &Path, keys: &Path) -> Result<(), Error> {
        let of =
            |path: &Path| path.metadata().ok().filter(Metadata::is_file).map(|file| (file.dev(), file.ino()));
        match (of(path), of(keys)) {
            (Some(rejects), Some(keys)) if rejects == keys => {
                Err(Error::configuration("rejects", format!("the keys are read from {}", path.display())))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn write(&mut self, item: &Item, class: Class, reason: &str) {
        if self.problem.is_some() {
            return;
        }
        let line = item.line.to_string();
        let fields = item.fields.iter().map(|field| field.as_deref().unwrap_or(r"\N"));
        let written = self.file.write_record(fields.chain([class.as_str(), &line, reason]));
        self.problem = written.err().map(std::io::Error::from);
    }

    /// Writes what is held back.
    pub(crate) fn finish(mut self) -> Result<(), std::io::Error> {
        match self.problem.take() {
            Some(problem) => Err(problem),
            None => self.file.flush(),
        }
    }
}
