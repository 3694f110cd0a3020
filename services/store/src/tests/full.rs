//! The disk is full, nearly full, or out of inodes: on a small file system of its own.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use skerry_common::Key;

use super::{delete, event, open, status, upsert};
use crate::{Health, Opened, Store, StoreError, StoreOptions};

/// A tmpfs that is gone when the test ends.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn new(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options))
            .expect("the tests run as root");
        Self { dir }
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("edge.db")
    }

    /// Fills the rest of the disk, but for `spare` bytes.
    fn fill(&self, spare: u64) {
        let mut filler = File::create(self.filler()).unwrap();
        while filler.write_all(&[7; 4096]).is_ok() {}
        let length = filler.metadata().unwrap().len();
        filler.set_len(length.saturating_sub(spare)).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.dir.path().join("filler")
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
    }
}

async fn until(store: &Store, wanted: Health) {
    let mut health = store.health();
    let waited = tokio::time::timeout(Duration::from_secs(20), health.wait_for(|health| *health == wanted)).await;
    assert!(waited.is_ok(), "not {wanted:?} after 20 s");
}

/// Writes objects until one is refused; returns those that were acknowledged.
async fn write_until_full(store: &Store, prefix: &str) -> Vec<String> {
    let mut acked = Vec::new();
    for row in 0..10_000 {
        let name = format!("{prefix}{row}");
        match store.apply("Pod", vec![upsert(&name, "1", vec![7; 3000])]).await {
            Ok(()) => acked.push(name),
            Err(StoreError::Full { .. }) => return acked,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("never full");
}

async fn all_there(store: &Store, names: &[String]) {
    for name in names {
        let object = store.get("Pod", &Key::new("default", name.as_str())).await.unwrap();
        assert_eq!(object.expect(name).body.len(), 3000);
    }
}

fn exists(path: &Path) -> bool {
    path.exists()
}

#[tokio::test]
async fn a_disk_filled_by_others_refuses_growth_takes_removals_and_recovers_alone() {
    let disk = SmallDisk::new("size=8m");
    let (store, _) = open(&disk.database());
    let kept = store.put(status("web", "Running")).await.unwrap();
    let confirmed = store.put(status("db", "Running")).await.unwrap();
    store.apply("Pod", (0..20).map(|i| upsert(&format!("old{i}"), "1", vec![7; 3000])).collect()).await.unwrap();
    let ballast = disk.dir.path().join("edge.db.ballast");
    assert!(exists(&ballast));
    for spare in [0, 10_000, 200_000] {
        disk.fill(spare);
        let acked = write_until_full(&store, &format!("spare{spare}-")).await;
        assert_eq!(*store.health().borrow(), Health::DiskFull);
        assert!(!exists(&ballast), "the ballast was released");
        assert!(matches!(store.put(event("e", "x")).await, Err(StoreError::Full { .. })));
        assert!(matches!(store.put_value("a", "b").await, Err(StoreError::Full { .. })));
        all_there(&store, &acked).await;

        store.remove(&[confirmed]).await.unwrap();
        let session = store.next_session().await.unwrap();
        assert!(store.next_session().await.unwrap() > session);
        for name in acked.iter().map(String::as_str).chain(["old0", "old1", "old2"]) {
            store.apply("Pod", vec![delete(name)]).await.unwrap();
        }
        disk.free();
        until(&store, Health::Good).await;
        assert!(exists(&ballast), "the ballast is back");
        store.apply("Pod", vec![upsert("after", "1", vec![7; 3000])]).await.unwrap();
    }
    store.close().await;
    let (store, opened) = open(&disk.database());
    assert_eq!(opened, Opened::Clean);
    assert_eq!(store.pending(0, 10).await.unwrap().into_iter().map(|p| p.id).collect::<Vec<_>>(), [kept]);
    assert_eq!(store.held("Pod").await.unwrap().len(), 20 - 3 + 1);
    store.close().await;
}

#[tokio::test]
async fn a_disk_filled_by_the_store_itself_has_room_again_after_deletions() {
    let disk = SmallDisk::new("size=6m");
    let (store, _) = open(&disk.database());
    let acked = write_until_full(&store, "p").await;
    assert!(acked.len() > 100, "{}", acked.len());
    all_there(&store, &acked).await;
    // Nothing is freed by anybody else: the file itself must shrink.
    for names in acked.chunks(50) {
        store.apply("Pod", names.iter().map(|name| delete(name)).collect()).await.unwrap();
    }
    until(&store, Health::Good).await;
    store.apply("Pod", vec![upsert("after", "1", vec![7; 3000])]).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn events_are_dropped_before_control_state_has_to_wait() {
    let disk = SmallDisk::new("size=8m");
    let options = StoreOptions::default();
    let metrics = options.metrics.clone();
    let (store, _) = Store::open(disk.database(), options).unwrap();
    let control = store.put(status("web", "Running")).await.unwrap();
    for row in 0..10_000 {
        match store.put(event(&format!("e{row}"), vec![7; 3000])).await {
            Ok(_) => {}
            Err(StoreError::Full { .. }) => break,
            Err(other) => panic!("{other}"),
        }
    }
    until(&store, Health::Good).await;
    assert!(metrics.dropped.get() > 0, "counted");
    store.apply("Pod", vec![upsert("a", "1", vec![7; 3000])]).await.unwrap();
    let pending = store.pending(0, usize::MAX >> 1).await.unwrap();
    assert_eq!(pending[0].id, control, "control state is kept");
    assert!(pending.len() > 10);
    let newest = &pending[pending.len() - 1].report.key.name;
    assert_ne!(&**newest, "e0", "the oldest events go first");
    store.close().await;
}

#[tokio::test]
async fn a_start_on_a_full_disk_works_and_takes_removals() {
    let disk = SmallDisk::new("size=8m");
    let (store, _) = open(&disk.database());
    store.apply("Pod", vec![upsert("a", "1", vec![7; 3000]), upsert("b", "1", "x")]).await.unwrap();
    store.close().await;
    for with_ballast in [true, false] {
        if !with_ballast {
            std::fs::remove_file(disk.dir.path().join("edge.db.ballast")).unwrap();
        }
        disk.fill(if with_ballast { 0 } else { 120_000 });
        let (store, opened) = open(&disk.database());
        assert_eq!(opened, Opened::Clean);
        assert_eq!(store.held("Pod").await.unwrap().len(), if with_ballast { 2 } else { 1 });
        store.apply("Pod", vec![delete(if with_ballast { "b" } else { "a" })]).await.unwrap();
        disk.free();
        store.close().await;
        // So that there is a ballast to remove.
        open(&disk.database()).0.close().await;
    }
}

#[tokio::test]
async fn a_disk_without_inodes_does_not_stop_an_open_store() {
    let disk = SmallDisk::new("size=16m,nr_inodes=40");
    let (store, _) = open(&disk.database());
    store.put_value("a", "1").await.unwrap();
    let files = disk.dir.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let made = (0..100).take_while(|i| File::create(files.join(i.to_string())).is_ok()).count();
    assert!(made < 100, "the inodes are used up");
    let acked = {
        let mut acked = Vec::new();
        for row in 0..300 {
            let name = format!("p{row}");
            store.apply("Pod", vec![upsert(&name, "1", vec![7; 3000])]).await.unwrap();
            acked.push(name);
        }
        acked
    };
    all_there(&store, &acked).await;
    store.close().await;
    // A start needs two files beside the database, and says what is missing.
    match Store::open(disk.database(), StoreOptions::default()) {
        Ok((store, opened)) => {
            assert_eq!(opened, Opened::Clean);
            store.close().await;
        }
        Err(error) => assert!(
            matches!(error, StoreError::Full { .. } | StoreError::Io { .. } | StoreError::Database(_)),
            "{error:?}"
        ),
    }
    std::fs::remove_dir_all(&files).unwrap();
    let (store, opened) = open(&disk.database());
    assert_eq!(opened, Opened::Clean);
    all_there(&store, &acked).await;
    store.close().await;
}

#[tokio::test]
async fn a_read_only_directory_is_told() {
    let disk = SmallDisk::new("size=4m");
    open(&disk.database()).0.close().await;
    mount(None::<&str>, disk.dir.path(), None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>).unwrap();
    let refused = Store::open(disk.database(), StoreOptions::default()).unwrap_err();
    assert!(matches!(refused, StoreError::Unsuitable { .. } | StoreError::Io { .. }), "{refused:?}");
}
