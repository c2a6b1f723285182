//! The overlapped stages: workers decode, one thread a session runs the teacher, another converts,
//! compresses and writes. Bounded queues keep memory independent of the data set; batches keep
//! their order, so that the bytes do not depend on the number of threads.

use super::encode::{Encoded, Lost};
use super::plan::ExtractPlan;
use super::reader::{RowBatch, RowReader};
use crate::array::Array;
use crate::cache::{self, SegmentWriter, Writer};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::recipe::Store;
use crate::runtime::Session;
use crate::threads;
use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Serialize;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

/// Computed batches that may wait to be written.
const WRITE_QUEUE: usize = 2;

/// One inference: rows of one segment of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) view: usize,
    pub(super) segment: usize,
    pub(super) rows: Range<usize>,
    /// Whether it is the segment's last.
    is_last: bool,
}

/// A batch on its way from a worker to a session, and from there to its place in the order.
struct Ticket {
    task: Task,
    batch: Receiver<Result<RowBatch>>,
    reply: Sender<Result<Computed>>,
}

/// Rows for a worker to read.
struct ToRead {
    view: usize,
    rows: Range<usize>,
    reply: Sender<Result<RowBatch>>,
}

/// The teacher's output for a task.
struct Computed {
    task: Task,
    stored: Vec<Vec<u8>>,
    values: Vec<Array>,
}

/// Seconds that each stage worked, without waiting. Stages run in parallel, so that their sum
/// exceeds the run's time; the stage that comes near it is the bottleneck.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Stages {
    /// Reading, decoding and preprocessing samples, all workers together.
    pub decode: f64,
    /// The teacher.
    pub infer: f64,
    /// Pooling, statistics and conversion to the stored types.
    pub convert: f64,
    /// Compression, checksums and writing, and the commits.
    pub write: f64,
}

impl Stages {
    /// Adds the seconds of another pass.
    pub(super) fn add(&mut self, other: &Self) {
        self.decode += other.decode;
        self.infer += other.infer;
        self.convert += other.convert;
        self.write += other.write;
    }
}

/// How a pass over tasks ended.
pub(super) enum Ended {
    Done,
    /// At an output whose values are beyond f16, by its place in the plan; and why.
    BeyondF16(usize, Error),
}

/// Nanoseconds of the stages so far.
#[derive(Default)]
struct Clocks {
    decode: AtomicU64,
    infer: AtomicU64,
    convert: AtomicU64,
    write: AtomicU64,
}

impl Clocks {
    fn stages(&self) -> Stages {
        #[allow(clippy::cast_precision_loss, reason = "a time for people")]
        let seconds = |clock: &AtomicU64| clock.load(Ordering::Relaxed) as f64 / 1e9;
        Stages {
            decode: seconds(&self.decode),
            infer: seconds(&self.infer),
            convert: seconds(&self.convert),
            write: seconds(&self.write),
        }
    }
}

fn timed<R>(clock: &AtomicU64, work: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = work();
    clock.fetch_add(
        u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
        Ordering::Relaxed,
    );
    result
}

/// The inferences of every segment that is not yet published in all arrays, by view, in row order.
pub(super) fn tasks(writer: &Writer, batch: usize) -> Vec<Task> {
    let manifest = writer.manifest();
    let all = (0..manifest.views)
        .flat_map(|view| (0..manifest.segments_per_view()).map(move |segment| (view, segment)));
    let missing = all.filter(|&(view, segment)| !writer.has(view, segment));
    missing
        .flat_map(|(view, segment)| {
            segment_tasks(view, segment, manifest.segment_rows, manifest.rows, batch)
        })
        .collect()
}

fn segment_tasks(
    view: usize,
    segment: usize,
    segment_rows: usize,
    rows: usize,
    batch: usize,
) -> Vec<Task> {
    let (first, end) = (segment * segment_rows, ((segment + 1) * segment_rows).min(rows));
    let starts = (first..end).step_by(batch);
    starts
        .map(|start| Task {
            view,
            segment,
            rows: start..(start + batch).min(end),
            is_last: start + batch >= end,
        })
        .collect()
}

/// Computes and publishes the tasks' segments. Returns how long each stage worked, and adds to
/// `lost` what f16 loses of each output's rows. Ends early where f16 was chosen for an output and
/// proves too narrow.
///
/// # Errors
/// At the first batch that cannot be read, computed or written; or when the user asks to stop.
/// Published segments stay.
pub(super) fn run(
    plan: &ExtractPlan<'_>,
    tasks: Vec<Task>,
    sessions: &mut [Session],
    writer: &mut Writer,
    monitor: &dyn Monitor,
    lost: &mut [Lost],
) -> Result<(Ended, Stages)> {
    let clocks = &Clocks::default();
    if tasks.is_empty() {
        return Ok((Ended::Done, clocks.stages()));
    }
    let todo: usize = tasks.iter().map(|t| t.rows.len()).sum();
    let all = plan.reader.rows.len() * writer.manifest().views;
    monitor.begin("extract", "rows", all as u64, (all - todo) as u64);
    let workers = plan.recipe.threads.max(1);
    // a batch in each worker, and one ready
    let (ticket_in, tickets) = bounded(workers + 1);
    let (work_in, work) = bounded::<ToRead>(workers + 1);
    let (order_in, order) = bounded(sessions.len() + workers + 1);
    // a session takes a place before each batch, and the writer returns it
    let places = sessions.len() + WRITE_QUEUE;
    let (place_in, place) = bounded(places);
    for _ in 0..places {
        let _ = place_in.try_send(());
    }
    let result = thread::scope(|scope| {
        // where the system refuses a thread, queues close, which ends those that run
        for session in sessions {
            let (tickets, place) = (tickets.clone(), place.clone());
            threads::start(scope, move || {
                infer(&plan.outputs.tensors, session, &tickets, &place, clocks);
            })?;
        }
        for _ in 0..workers {
            let work = work.clone();
            threads::start(scope, move || decode(&plan.reader, &work, clocks))?;
        }
        drop(work);
        threads::start(scope, move || feed(tasks, &work_in, &ticket_in, &order_in))?;
        drop((tickets, place));
        write(plan, order, place_in, writer, clocks, monitor, lost)
    });
    monitor.end();
    result.map(|ended| (ended, clocks.stages()))
}

/// Hands out work in order; the queues bound how far it runs ahead. Ends early when the writer has
/// ended.
fn feed(
    tasks: Vec<Task>,
    work: &Sender<ToRead>,
    tickets: &Sender<Ticket>,
    order: &Sender<Receiver<Result<Computed>>>,
) {
    for task in tasks {
        let ((decoded, batch), (reply, computed)) = (bounded(1), bounded(1));
        let (view, rows) = (task.view, task.rows.clone());
        let sent =
            order.send(computed).is_ok() && tickets.send(Ticket { task, batch, reply }).is_ok();
        if !sent || work.send(ToRead { view, rows, reply: decoded }).is_err() {
            return;
        }
    }
}

fn decode(reader: &RowReader, work: &Receiver<ToRead>, clocks: &Clocks) {
    for ToRead { view, rows, reply } in work {
        // nobody waits for the reply after a failure downstream
        let _ = reply.send(timed(&clocks.decode, || reader.read(view, rows)));
    }
}

fn infer(
    tensors: &[String],
    session: &mut Session,
    tickets: &Receiver<Ticket>,
    place: &Receiver<()>,
    clocks: &Clocks,
) {
    // no place comes once the writer has ended
    while let (Ok(()), Ok(Ticket { task, batch, reply })) = (place.recv(), tickets.recv()) {
        let computed = batch
            .recv()
            .map_err(|e| Error::input("decoding ended before its work was done").because(e))
            .flatten()
            .and_then(|batch| {
                let values = timed(&clocks.infer, || session.run(&batch.feed(), tensors))?;
                Ok(Computed { task, stored: batch.stored, values })
            });
        // nobody waits for the reply after a failure downstream
        let _ = reply.send(computed);
    }
}

fn write(
    plan: &ExtractPlan<'_>,
    order: Receiver<Receiver<Result<Computed>>>,
    places: Sender<()>,
    writer: &mut Writer,
    clocks: &Clocks,
    monitor: &dyn Monitor,
    lost: &mut [Lost],
) -> Result<Ended> {
    let types: Vec<_> = writer.manifest().view_arrays.iter().map(|array| array.dtype).collect();
    let outputs = plan.outputs.in_order_of(writer.manifest());
    let mut open: Option<SegmentWriter> = None;
    // the loss of the open segment
    let mut losing = vec![Lost::NOTHING; lost.len()];
    for computed in order {
        if monitor.stop_requested() {
            return Err(Error::interrupted("the segments that were whole are in the cache")
                .hint("run the same command again to resume"));
        }
        let computed = computed
            .recv()
            .map_err(|e| Error::input("the teacher ended before its work was done").because(e))?;
        let Computed { task, stored, values } = computed?;
        // where arrays are added, the first ones are published already
        let published = writer.manifest().published_arrays(task.view, task.segment);
        let mut segment = match open.take() {
            Some(segment) => segment,
            None => writer.segment(task.view, task.segment)?,
        };
        let mut written = 0;
        for (array, bytes) in stored.iter().enumerate().skip(published) {
            written += timed(&clocks.write, || segment.append(array, bytes))?;
        }
        let arrays = outputs.iter().zip(stored.len()..);
        for (&(place, output), array) in arrays.skip_while(|(_, array)| *array < published) {
            let name = |row: usize| plan.reader.sample_name(task.rows.start + row);
            let values = plan.outputs.values(output, &values)?;
            let bytes = match timed(&clocks.convert, || {
                output.try_encode(values, types[array], task.rows.len(), name)
            })? {
                Encoded::Bytes(bytes, of) => {
                    losing[place] = losing[place].and(of);
                    bytes
                }
                Encoded::BeyondF16(error) if plan.recipe.store == Store::Auto => {
                    return Ok(Ended::BeyondF16(place, error));
                }
                Encoded::BeyondF16(error) => return Err(error),
            };
            written += timed(&clocks.write, || segment.append(array, &bytes))?;
        }
        if task.is_last {
            record(plan, writer)?;
            timed(&clocks.write, || writer.publish(segment))?;
            for (all, of) in lost.iter_mut().zip(&mut losing) {
                *all = all.and(std::mem::replace(of, Lost::NOTHING));
            }
        } else {
            open = Some(segment);
        }
        // full once no session computes
        let _ = places.try_send(());
        monitor.advance(task.rows.len() as u64, written);
    }
    // ends the sessions that wait for a place
    drop(places);
    Ok(Ended::Done)
}

/// Warns of what f16 loses of each output's rows.
pub(super) fn say_lost(plan: &ExtractPlan<'_>, lost: &[Lost], monitor: &dyn Monitor) {
    let lines =
        plan.outputs.all.iter().zip(lost).filter_map(|(output, &lost)| output.describe(lost));
    lines.for_each(|line| monitor.warn(&line));
}

/// Records the files from which samples have been read so far.
///
/// # Errors
/// When a sample's file has changed since it was first read.
pub(super) fn record(plan: &ExtractPlan<'_>, writer: &mut Writer) -> Result<()> {
    let source = &plan.reader.source;
    let (traces, torn) = source.witness.take();
    let changed = [writer.record(&traces)?, torn].concat();
    if changed.is_empty() {
        Ok(())
    } else {
        Err(cache::changed(&plan.recipe.output, source.data(), &changed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_never_span_segments_and_cover_every_row_once() {
        let all: Vec<Task> =
            (0..4).flat_map(|segment| segment_tasks(1, segment, 128, 450, 32)).collect();
        let mut next = 0;
        for task in &all {
            assert_eq!(task.rows.start, next);
            assert_eq!(task.rows.start / 128, task.segment);
            assert_eq!((task.rows.end - 1) / 128, task.segment);
            assert_eq!(task.is_last, task.rows.end % 128 == 0 || task.rows.end == 450);
            next = task.rows.end;
        }
        assert_eq!(next, 450);
    }
}
