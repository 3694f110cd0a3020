//! The program `nft`: checks, commits and lists.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::error::Error;
use crate::nft::TABLE;
use crate::nft::observed::{LEARNED, Observed};
use crate::nft::transaction::Transaction;
use crate::program;

const NFT: &str = "nft";

/// Where nft is, and whose turn.
#[derive(Debug)]
pub(crate) struct Nft {
    program: PathBuf,
    turn: Arc<Mutex<()>>,
}

impl Nft {
    /// Looks for it.
    pub(crate) fn find() -> Option<Self> {
        Some(Self { program: program::find(NFT)?, turn: Arc::default() })
    }

    /// Whether nft and the kernel would take this; nothing is changed.
    pub(crate) async fn check(&self, transaction: &Transaction) -> Result<(), Error> {
        self.run(&["-c", "-f", "-"], transaction.text()).await.map(drop)
    }

    /// Does all of it or nothing.
    pub(crate) async fn commit(&self, transaction: &Transaction) -> Result<(), Error> {
        if transaction.is_empty() {
            return Ok(());
        }
        self.run(&["-f", "-"], transaction.text()).await.map(drop)
    }

    /// The table as the kernel has it; none when there is none.
    pub(crate) async fn list(&self) -> Result<Option<Observed>, Error> {
        self.listing("table", &[]).await
    }

    /// The learned clients and nothing else.
    pub(crate) async fn learned(&self) -> Result<BTreeMap<String, String>, Error> {
        Ok(self.listing("map", &[LEARNED]).await?.unwrap_or_default().learned)
    }

    async fn listing(&self, what: &str, of: &[&str]) -> Result<Option<Observed>, Error> {
        let mut arguments = vec!["-j", "list", what];
        arguments.extend(TABLE.split(' '));
        arguments.extend(of);
        let listing = match self.run(&arguments, "").await {
            Ok(listing) => listing,
            Err(Error::Refused { message, .. }) if message.contains("No such file or directory") => return Ok(None),
            Err(error) => return Err(error),
        };
        let found =
            Observed::parse(&listing).map_err(|error| Error::Listing { program: NFT, source: Box::new(error) })?;
        Ok(Some(found))
    }

    /// Runs to its end also when the caller is cancelled, and the next one waits for that: otherwise it might look at
    /// the table right before a transaction of which nobody knows any more.
    async fn run(&self, arguments: &[&str], stdin: &str) -> Result<Vec<u8>, Error> {
        let failed = |source| Error::Run { program: NFT, source };
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let (program, stdin) = (self.program.clone(), stdin.to_owned());
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let ended = tokio::spawn(async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let output = program::run(&program, &arguments, &stdin).await;
            drop(turn);
            output
        });
        let output = ended.await.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)?;
        if output.success {
            return Ok(output.stdout);
        }
        let message = output.stderr.lines().next().unwrap_or("no reason given").to_owned();
        Err(Error::Refused { program: NFT, message })
    }
}
