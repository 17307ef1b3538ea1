//! A query's keys, kept in memory, or in a temporary file where they are many.

use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};

use futures_util::{StreamExt, stream};
use tempfile::SpooledTempFile;
use tokio_postgres::Client;

use super::{Item, Opened};
use crate::error::Error;
use crate::pg::Failure;
use crate::pg::privileges::quote;

/// The query with its columns under the input's names; checks that it has them.
pub(in crate::run::update) async fn named(
    client: &Client,
    query: &str,
    inputs: &[String],
) -> Result<String, Error> {
    let query = query.trim_end().trim_end_matches(';');
    let prepared =
        client.prepare(&format!("SELECT * FROM (SELECT) AS nothing, LATERAL ({query}\n) AS q")).await;
    let prepared = prepared.map_err(|error| Error::sql("the query for the keys", error.into()))?;
    let names: Vec<&str> = prepared.columns().iter().map(tokio_postgres::Column::name).collect();
    let output = |input: &String| {
        if names.contains(&input.as_str()) {
            return Ok(format!("q.{} AS {}", quote(input), quote(input)));
        }
        if let ([only], 1) = (&*names, inputs.len()) {
            return Ok(format!("q.{} AS {}", quote(only), quote(input)));
        }
        Err(Error::configuration("keys", format!("the query has no column {input}")))
    };
    let outputs: Result<Vec<String>, Error> = inputs.iter().map(output).collect();
    Ok(format!("SELECT {} FROM ({query}\n) AS q", outputs?.join(", ")))
}

/// A query's answer: per field a length (`NULL_FIELD` for NULL) and the text.
pub(in crate::run::update) struct Spool {
    file: BufWriter<SpooledTempFile>,
    rows: u64,
}

/// How many bytes are kept without a file: some 700,000 keys of ten digits.
const IN_MEMORY: usize = 10 << 20;

const NULL_FIELD: u32 = u32::MAX;

impl Spool {
    /// Runs a [`named`] query and keeps its answer.
    pub(in crate::run::update) async fn fill(
        client: &Client,
        query: &str,
        inputs: &[String],
    ) -> Result<Self, Failure> {
        let outputs: Vec<String> =
            inputs.iter().map(|name| format!("k.{}::pg_catalog.text", quote(name))).collect();
        let sql = format!("SELECT {} FROM ({query}) AS k", outputs.join(", "));
        let local = |error: std::io::Error| {
            let folder = tempfile::env::temp_dir();
            Failure::client(format!(
                "cannot keep the keys in a temporary file in {}: {error}; let TMPDIR name a folder with room for them",
                folder.display()
            ))
        };
        let mut spool = Self { file: BufWriter::new(SpooledTempFile::new(IN_MEMORY)), rows: 0 };
        let rows = client.query_raw(&sql, std::iter::empty::<&str>()).await?;
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = rows.next().await {
            let row = row?;
            for n in 0..inputs.len() {
                spool.write(row.try_get(n)?).map_err(local)?;
            }
            spool.rows += 1;
        }
        Ok(spool)
    }

    fn write(&mut self, field: Option<&str>) -> std::io::Result<()> {
        let length = field.map_or(NULL_FIELD, |text| text.len() as u32);
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(field.unwrap_or_default().as_bytes())
    }

    /// Reads it back.
    pub(in crate::run::update) fn open(self, inputs: usize) -> Result<Opened, Error> {
        let cannot = |error: std::io::Error| Error::other("cannot read the keys back", error);
        let mut file = self.file.into_inner().map_err(|error| cannot(error.into_error()))?;
        file.seek(SeekFrom::Start(0)).map_err(cannot)?;
        let (total, mut reader) = (self.rows, BufReader::with_capacity(1 << 16, file));
        let rows = (1..=total).map(move |line| {
            let fields: std::io::Result<Box<[_]>> = (0..inputs).map(|_| read_field(&mut reader)).collect();
            Ok(Item::new(line, fields.map_err(cannot)?))
        });
        Ok(Opened { items: Box::pin(stream::iter(rows)), total: Some(total), countable: true })
    }
}

fn read_field(reader: &mut impl Read) -> std::io::Result<Option<Box<str>>> {
    let mut length = [0; 4];
    reader.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length == NULL_FIELD {
        return Ok(None);
    }
    let mut text = vec![0; length as usize];
    reader.read_exact(&mut text)?;
    let text = String::from_utf8(text).map_err(std::io::Error::other)?;
    Ok(Some(text.into()))
}
