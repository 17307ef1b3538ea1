//! Real data: TPC-H `lineitem` and `orders`, generated here and loaded by COPY.
//!
//! Two sessions load each one half of `lineitem` while a third loads `orders`; a thread of its own
//! generates for each. The tables are unlogged, the server is thrown away in a minute.

use std::fmt::{Display, Write as _};
use std::pin::pin;

use bytes::Bytes;
use futures_util::SinkExt;
use headcount::server::Endpoint;
use tokio::sync::mpsc;
use tpchgen::csv::{LineItemCsv, OrderCsv};
use tpchgen::distribution::Distributions;
use tpchgen::generators::{LineItemGenerator, OrderGenerator};
use tpchgen::text::TextPool;

use super::Trouble;

/// The specification's pool of words for comments is 300 MB; the comments of a small scale need less.
const TEXT_POOL: i32 = 4 << 20;
/// Rows go to the server in pieces of about this size.
const PIECE: usize = 64 << 10;

/// The columns of the TPC-H specification. The reports that compete read `orders` with three workers.
const TABLES: &str = "
    CREATE UNLOGGED TABLE orders (
        o_orderkey bigint, o_custkey bigint, o_orderstatus char(1), o_totalprice numeric(15,2), o_orderdate date,
        o_orderpriority text, o_clerk text, o_shippriority int, o_comment text) WITH (autovacuum_enabled = off);
    CREATE UNLOGGED TABLE lineitem (
        l_orderkey bigint, l_partkey bigint, l_suppkey bigint, l_linenumber int, l_quantity numeric(15,2),
        l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2), l_returnflag char(1),
        l_linestatus char(1), l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct text,
        l_shipmode text, l_comment text) WITH (autovacuum_enabled = off);";

/// Without statistics the planner guesses; with them it is sure of four workers.
const FINISH: &str = "ANALYZE orders; ANALYZE lineitem; ALTER TABLE lineitem SET (parallel_workers = 8)";

/// Loads both tables; returns their numbers of rows: `lineitem`, `orders`.
pub(super) async fn load(server: &Endpoint, scale: f64) -> Result<(u64, u64), Trouble> {
    let client = server.client("demo").await?;
    client.batch_execute(TABLES).await?;
    let (first, second, orders) = tokio::try_join!(
        copy(server, "lineitem", move |pieces| lineitem(scale, 1, pieces)),
        copy(server, "lineitem", move |pieces| lineitem(scale, 2, pieces)),
        copy(server, "orders", move |pieces| orders_of(scale, pieces)),
    )?;
    client.batch_execute(FINISH).await?;
    Ok((first + second, orders))
}

async fn copy(
    server: &Endpoint,
    table: &str,
    generate: impl FnOnce(&mpsc::Sender<Bytes>) + Send + 'static,
) -> Result<u64, Trouble> {
    let client = server.client("demo").await?;
    let (pieces, mut inbox) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || generate(&pieces));
    let sink = client.copy_in(&format!("COPY {table} FROM STDIN (FORMAT csv)")).await?;
    let mut sink = pin!(sink);
    while let Some(piece) = inbox.recv().await {
        sink.send(piece).await?;
    }
    Ok(sink.finish().await?)
}

fn lineitem(scale: f64, half: i32, pieces: &mpsc::Sender<Bytes>) {
    let words = Distributions::static_default();
    let text = TextPool::new(TEXT_POOL, words);
    let rows = LineItemGenerator::new_with_distributions_and_text_pool(scale, half, 2, words, &text);
    send(rows.iter().map(LineItemCsv::new), pieces);
}

fn orders_of(scale: f64, pieces: &mpsc::Sender<Bytes>) {
    let words = Distributions::static_default();
    let text = TextPool::new(TEXT_POOL, words);
    let rows = OrderGenerator::new_with_distributions_and_text_pool(scale, 1, 1, words, &text);
    send(rows.iter().map(OrderCsv::new), pieces);
}

/// Stops when the loader is gone.
fn send(rows: impl Iterator<Item = impl Display>, pieces: &mpsc::Sender<Bytes>) {
    let mut piece = String::with_capacity(PIECE + 512);
    for row in rows {
        let _ = writeln!(piece, "{row}");
        if piece.len() >= PIECE {
            let full = std::mem::replace(&mut piece, String::with_capacity(PIECE + 512));
            if pieces.blocking_send(full.into()).is_err() {
                return;
            }
        }
    }
    let _ = pieces.blocking_send(piece.into());
}
