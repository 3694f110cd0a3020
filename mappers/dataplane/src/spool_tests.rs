//! The spool over real files: order, bounds, damage, and what a new process finds.

use super::*;
use crate::route::Route;
use crate::route::tests::{record, record_of};

const SINK: &str = "http://a:80";

fn spool(folder: &Path) -> Spool {
    Spool::new(folder, DEFAULT_SPOOL_BYTES, DEFAULT_SPOOL_AGE)
}

fn numbers(range: std::ops::Range<i64>) -> Vec<Record> {
    range.map(|number| record(Value::Int(number), number)).collect()
}

fn times(waiting: &Waiting) -> Vec<i64> {
    waiting.iter().map(|(_, record)| record.unix_ms).collect()
}

#[test]
fn values_come_back_as_they_were_in_order_also_to_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let values = [
        Value::Int(i64::MIN),
        Value::Uint(u64::MAX),
        Value::Float(0.1),
        Value::Float(-0.0),
        Value::Float(1e300),
        Value::Bool(true),
        Value::Text("a'b\"; \0 ü\n".into()),
        Value::Bytes(vec![0, 255]),
    ];
    let records: Vec<_> = (0..).zip(&values).map(|(number, value)| record(value.clone(), number)).collect();
    spool(folder.path()).append(SINK, &records).unwrap();
    let next = spool(folder.path());
    next.append(SINK, &[record_of("INT", Route::Tdengine { table: "t".into() }, Value::Int(9), 9)]).unwrap();
    let found = next.oldest(SINK, 100, u64::MAX).unwrap();
    let found: Vec<_> = found.into_iter().map(|(_, record)| record).collect();
    assert_eq!(found[..8], records);
    assert_eq!(found[8].target.route, Route::Tdengine { table: "t".into() });
    assert!(next.oldest("http://b:80", 100, u64::MAX).unwrap().is_empty());
}

#[test]
fn what_is_confirmed_is_gone_and_numbers_are_never_used_twice() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool(folder.path());
    assert_eq!(spool.append(SINK, &numbers(0..10)).unwrap(), Appended { last: 10, dropped: 0 });
    spool.confirm(SINK, 4).unwrap();
    assert_eq!(times(&spool.oldest(SINK, 3, u64::MAX).unwrap()), [4, 5, 6]);
    assert_eq!(spool.oldest(SINK, 100, 1).unwrap().len(), 1);
    spool.confirm(SINK, 10).unwrap();
    assert!(spool.oldest(SINK, 100, u64::MAX).unwrap().is_empty());
    assert_eq!(spool.append(SINK, &numbers(0..1)).unwrap().last, 11);
}

#[test]
fn the_oldest_are_dropped_when_it_is_full_and_only_of_this_sink() {
    let folder = tempfile::tempdir().unwrap();
    let each = record(Value::Int(0), 0).cost();
    let spool = Spool::new(folder.path(), 1000 * each, DEFAULT_SPOOL_AGE);
    spool.append("other", &numbers(0..1000)).unwrap();
    let mut dropped = 0;
    for start in (0..3000).step_by(100) {
        dropped += spool.append(SINK, &numbers(start..start + 100)).unwrap().dropped;
    }
    assert_eq!(dropped, 2000);
    assert_eq!(times(&spool.oldest(SINK, 5000, u64::MAX).unwrap()), (2000..3000).collect::<Vec<_>>());
    assert_eq!(spool.oldest("other", 5000, u64::MAX).unwrap().len(), 1000);
    // The file is bounded as well: twice the values is room enough for its pages.
    let size = fs::metadata(folder.path().join("spool.db")).unwrap().len();
    assert!(size < 2 * 2000 * each, "{size}");
}

/// Written first and removed then, they would leave a file that is four times as long.
#[test]
fn more_than_there_is_room_for_at_once_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let each = record(Value::Int(0), 0).cost();
    let spool = Spool::new(folder.path(), 1000 * each, DEFAULT_SPOOL_AGE);
    spool.append(SINK, &numbers(0..10)).unwrap();
    // Numbers go on as if all had been written: whoever gave them knows theirs by counting.
    assert_eq!(spool.append(SINK, &numbers(10..20_010)).unwrap(), Appended { last: 20_010, dropped: 19_010 });
    let waiting = spool.oldest(SINK, 5000, u64::MAX).unwrap();
    assert_eq!(times(&waiting), (19_010..20_010).collect::<Vec<_>>());
    assert_eq!(waiting[0].0, 19_011);
    let bytes: u64 = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 4 * 1000 * each, "{bytes} bytes");
    // One that has no room alone is not kept, and nothing that is older.
    let long = record(Value::Text("x".repeat(100_000)), 30_000);
    assert_eq!(spool.append(SINK, &[long]).unwrap(), Appended { last: 20_011, dropped: 1001 });
    assert!(spool.oldest(SINK, 10, u64::MAX).unwrap().is_empty());
}

#[test]
fn what_is_too_old_is_dropped_in_time_that_somebody_runs() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::new(folder.path(), DEFAULT_SPOOL_BYTES, Duration::from_secs(100));
    spool.append(SINK, &numbers(0..5)).unwrap();
    let later = |seconds: i64| {
        let mut state = spool.lock();
        let State::Open(open) = &mut *state else { panic!("it is closed") };
        open.base += seconds;
        open.looked = None;
    };
    later(99);
    assert_eq!(spool.append(SINK, &numbers(5..6)).unwrap().dropped, 0);
    later(2);
    assert_eq!(spool.append(SINK, &numbers(6..7)).unwrap(), Appended { last: 7, dropped: 5 });
    assert_eq!(times(&spool.oldest(SINK, 10, u64::MAX).unwrap()), [5, 6]);
    // A new process goes on where the last one ended, whatever the clock on the wall says.
    let next = Spool::new(folder.path(), DEFAULT_SPOOL_BYTES, Duration::from_secs(100));
    assert_eq!(next.append(SINK, &[]).unwrap().dropped, 0);
}

#[test]
fn a_damaged_file_is_set_aside_and_an_unusable_one_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("spool.db"), "not a database, not at all".repeat(100)).unwrap();
    let spool = spool(folder.path());
    spool.append(SINK, &numbers(0..3)).unwrap();
    assert_eq!(spool.oldest(SINK, 10, u64::MAX).unwrap().len(), 3);
    assert!(folder.path().join("spool.damaged").exists());

    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let nowhere = Spool::new(&file.join("below"), DEFAULT_SPOOL_BYTES, DEFAULT_SPOOL_AGE);
    assert!(matches!(nowhere.append(SINK, &numbers(0..1)), Err(SpoolError::Io { .. })));
    assert!(matches!(nowhere.append(SINK, &numbers(0..1)), Err(SpoolError::Waiting)));
}
