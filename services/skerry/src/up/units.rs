//! x
use super::state::State; use crate::supervise::Places; use crate::failure::Result;
pub(super) fn runtime(_f: &Places) -> Result<()> { Ok(()) }
pub(super) fn control_plane(_f: &Places, _s: &State) -> Result<()> { Ok(()) }
pub(super) fn cloud(_f: &Places, _s: &State) -> Result<()> { Ok(()) }
pub(super) fn edge(_f: &Places, _s: &State) -> Result<()> { Ok(()) }
