//! `skerry set device`: desired values, and waiting until the device has them.
//!
//! All properties are looked at before the first is set, so that a typing error changes nothing. Each value is
//! durable on the node once it is set; a wait that ends early takes nothing back.

use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;
use skerry_common::exit;
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::device_change::Change;
use tokio::time::Instant;

use super::client::{self, Devices};
use super::near::near;
use super::{WhichArgs, show};
use crate::failure::{Failure, Result};
use crate::ui;

/// Options of `skerry set device`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Which device.
    #[command(flatten)]
    which: WhichArgs,
    /// What shall be, as PROPERTY=VALUE.
    #[arg(required = true, value_name = "PROPERTY=VALUE", value_parser = Wanted::parse)]
    wanted: Vec<Wanted>,
    /// Wait until the device has the values.
    #[arg(long)]
    wait: bool,
    /// How long to wait: 30s, 5m.
    #[arg(long, default_value = "30s", requires = "wait", value_parser = patience)]
    timeout: Duration,
}

/// A value that a property shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    property: String,
    value: String,
}

impl Wanted {
    fn parse(text: &str) -> std::result::Result<Self, String> {
        match text.split_once('=') {
            Some((property, value)) if !property.is_empty() => {
                Ok(Self { property: property.into(), value: value.into() })
            }
            _ => Err("write it as PROPERTY=VALUE".into()),
        }
    }
}

pub(super) fn patience(text: &str) -> std::result::Result<Duration, String> {
    let parsed = text.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
    parsed.filter(|time| !time.is_zero()).ok_or_else(|| format!("{text:?} is not a duration: write 30s or 5m"))
}

/// How far a device is.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// It has everything.
    Done,
    /// It does not have these yet.
    Pending(Vec<String>),
    /// It will not have one, for this reason.
    Never(String),
}

/// How far the device is with what is wanted of it.
fn progress(view: &pb::DeviceView, wanted: &[Wanted]) -> Progress {
    let mut pending = Vec::new();
    for Wanted { property, value } in wanted {
        let Some(twin) = view.twins.iter().find(|twin| twin.property == *property) else {
            return Progress::Never(format!("the device has no property {} any more", show::plain(property)));
        };
        if twin.desired.as_ref() != Some(value) {
            let now = twin.desired.as_deref().map_or("nothing".into(), show::short);
            let because =
                if twin.problem.is_empty() { String::new() } else { format!(": {}", show::plain(&twin.problem)) };
            return Progress::Never(format!("{property} was changed meanwhile, wanted is {now}{because}"));
        }
        if twin.synced {
            continue;
        }
        if twin.refused {
            let words = show::plain(&format!("{property}: {}", twin.problem));
            return Progress::Never(format!("the device refused {words}"));
        }
        pending.push(show::plain(property));
    }
    if pending.is_empty() { Progress::Done } else { Progress::Pending(pending) }
}

/// Sets the values.
pub(super) async fn run(args: SetArgs) -> Result<()> {
    let deadline = Instant::now() + args.timeout;
    let key = args.which.key();
    let mut devices = Devices::connect(&args.which.node).await?;
    check(&devices.get(&key).await?, &args.wanted)?;
    for (number, Wanted { property, value }) in args.wanted.iter().enumerate() {
        if let Err(failure) = devices.set(&key, property, value).await {
            let before: Vec<_> = args.wanted.iter().take(number).map(|wanted| wanted.property.as_str()).collect();
            if !before.is_empty() {
                ui::note(format!("already set: {}", before.join(", ")));
            }
            return Err(failure);
        }
    }
    if args.wait {
        wait(&mut devices, &key, &args.wanted, deadline).await?;
    }
    let verb = if args.wait { "has" } else { "is to have" };
    for Wanted { property, value } in &args.wanted {
        ui::line(format!("{} {verb} {}={}", show::named(&key), show::plain(property), show::short(value)));
    }
    Ok(())
}

/// Refuses what cannot be set, with what to do about it.
fn check(view: &pb::DeviceView, wanted: &[Wanted]) -> Result<()> {
    let name = view.key.as_ref().map(show::named).unwrap_or_default();
    for (number, Wanted { property, .. }) in wanted.iter().enumerate() {
        if wanted.iter().take(number).any(|earlier| earlier.property == *property) {
            return Err(Failure::usage(format!("{property} is given twice")));
        }
        let Some(twin) = view.twins.iter().find(|twin| twin.property == *property) else {
            let failure = Failure::new(format!("the device {name} has no property {property:?}")).code(exit::NOT_FOUND);
            let known: Vec<_> = view.twins.iter().map(|twin| show::plain(&twin.property)).collect();
            return Err(match near(property, known.iter().map(String::as_str)).as_slice() {
                [] if known.is_empty() => failure,
                [] => failure.cure(format!("skerry describe device shows them: {}", show::short(&known.join(", ")))),
                names => failure.cure(format!("did you mean {}?", names.join(" or "))),
            });
        };
        if !twin.writable {
            return Err(Failure::usage(format!("{property} of the device {name} is read only"))
                .cure("its accessMode in the DeviceModel says so"));
        }
    }
    Ok(())
}

async fn wait(devices: &mut Devices, key: &pb::DeviceKey, wanted: &[Wanted], deadline: Instant) -> Result<()> {
    let name = show::named(key);
    let mut changes = devices.watch(&key.namespace).await?;
    let mut pending = Vec::new();
    let mut why = String::new();
    loop {
        let change = match tokio::time::timeout_at(deadline, changes.message()).await {
            Ok(Ok(Some(change))) => change.change,
            Ok(Ok(None)) => return Err(client::ended()),
            Ok(Err(status)) => return Err(client::failed(client::WATCHING, &status)),
            Err(_) => {
                return Err(Failure::new(format!("the device {name} does not have {} in time", pending.join(", ")))
                    .cause(if why.is_empty() { "it does not say why".into() } else { why })
                    .cure("it stays wanted; skerry describe device shows how far it is, --timeout waits longer")
                    .code(exit::UNREACHABLE));
            }
        };
        match change {
            Some(Change::Device(view)) if view.key.as_ref() == Some(key) => match progress(&view, wanted) {
                Progress::Done => return Ok(()),
                Progress::Never(reason) => {
                    return Err(Failure::new(format!("the device {name} does not have the values"))
                        .cause(reason)
                        .code(exit::REFUSED));
                }
                Progress::Pending(properties) => {
                    pending = properties;
                    // The first condition that is not well is the cause of those after it.
                    let unwell = view.conditions.iter().find(|c| !c.status && !c.message.is_empty());
                    why = unwell.map(|condition| show::plain(&condition.message)).unwrap_or_default();
                }
            },
            Some(Change::Removed(removed)) if removed == *key => {
                return Err(
                    Failure::new(format!("the device {name} is not on this node any more")).code(exit::NOT_FOUND)
                );
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::super::show::tests::boiler;
    use super::*;

    fn wanted(text: &str) -> Wanted {
        Wanted::parse(text).unwrap()
    }

    #[test]
    fn a_value_may_have_anything_in_it() {
        assert_eq!(wanted("a=b=c"), Wanted { property: "a".into(), value: "b=c".into() });
        assert_eq!(wanted("a="), Wanted { property: "a".into(), value: String::new() });
        for wrong in ["", "a", "=b"] {
            assert!(Wanted::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_timeout_is_a_time() {
        assert_eq!(patience("90s").unwrap().as_secs(), 90);
        assert_eq!(patience("5m").unwrap().as_secs(), 300);
        for wrong in ["", "0s", "-1s", "5", "soon"] {
            assert!(patience(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_mistake_is_found_before_anything_is_set() {
        for (given, code, words) in [
            (vec!["setpoint=1"], None, ""),
            (vec!["setpint=1"], Some(exit::NOT_FOUND), "did you mean setpoint?"),
            (vec!["pressure=1"], Some(exit::NOT_FOUND), "temperature, setpoint"),
            (vec!["temperature=1"], Some(exit::USAGE), "read only"),
            (vec!["setpoint=1", "setpoint=2"], Some(exit::USAGE), "given twice"),
        ] {
            let result = check(&boiler(), &given.iter().map(|text| wanted(text)).collect::<Vec<_>>());
            assert_eq!(result.as_ref().err().map(|failure| failure.code), code, "{given:?}");
            if let Err(failure) = result {
                assert!(failure.to_string().contains(words), "{failure}");
            }
        }
    }

    #[test]
    fn a_device_has_a_value_or_not_yet_or_never() {
        let mut view = boiler();
        let fifty = [wanted("setpoint=50")];
        assert_eq!(progress(&view, &fifty), Progress::Pending(vec!["setpoint".into()]));
        assert!(matches!(progress(&view, &[wanted("setpoint=51")]), Progress::Never(_)));

        // A problem of reading is no refusal.
        view.twins[1].problem = "illegal data value".into();
        assert_eq!(progress(&view, &fifty), Progress::Pending(vec!["setpoint".into()]));
        view.twins[1].refused = true;
        assert!(matches!(progress(&view, &fifty), Progress::Never(why) if why.contains("illegal data value")));

        view.twins[1].synced = true;
        assert_eq!(progress(&view, &fifty), Progress::Done);
        view.twins.clear();
        assert!(matches!(progress(&view, &fifty), Progress::Never(_)));
    }
}
