//! What Skerry keeps in the cluster: the CA, join tokens, revocations.
use std::path::Path;
use kube::Client;
use skerry_common::NodeName;
use skerry_identity::{Ca, Token, TokenRecord, TokenRequest};
use crate::failure::Result;
use crate::failure::Failure;
pub(crate) async fn ca(_c: &Client) -> Result<Ca> { Err(Failure::new("x")) }
pub(crate) async fn create_token(_c: &Client, _r: TokenRequest) -> Result<(Token, TokenRecord)> { Err(Failure::new("x")) }
pub(crate) async fn tokens(_c: &Client) -> Result<Vec<TokenRecord>> { Err(Failure::new("x")) }
pub(crate) async fn revoke_token(_c: &Client, _id: &str) -> Result<bool> { Err(Failure::new("x")) }
pub(crate) async fn revoke_node(_c: &Client, _n: &NodeName) -> Result<()> { Err(Failure::new("x")) }
pub(crate) async fn prepare(_c: &Client, _d: &Path) -> Result<()> { Err(Failure::new("x")) }
