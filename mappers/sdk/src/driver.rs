//! What the author of a mapper writes: a [`Driver`] and its [`Connection`].
//!
//! Called by the SDK only. Devices that share a line (a serial port, a gateway) are on one *bus*: they share
//! one connection, whose methods are called one after another, so a driver needs no locks. Implementations
//! may be written as `async fn`.
//!
//! Each call has the device's [`Driver::deadline`]. A call that takes longer is dropped where it waits, and
//! so is the connection, because nobody knows what is still under way on the line: a driver that can tell a
//! silent device from a broken line uses a shorter time of its own and returns [`Fault::Silent`].

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::{Device, Fault, Point, Sample, Updates, Value};

/// Longest call of a driver that does not say otherwise: a few slow requests on a slow line.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// A field protocol.
pub trait Driver: Sized + Send + Sync + 'static {
    /// `protocol.configData` of a Device, with its model's defaults.
    type Protocol: DeserializeOwned + Send + Sync;
    /// `properties[].visitors.configData` of a Device, with its model's defaults.
    type Visitor: DeserializeOwned + Send + Sync;
    /// A line that is open.
    type Connection: Connection<Self>;

    /// The name of the line that leads to the device; devices with the same name share a connection. Also the
    /// place to check what the types cannot say: no IO.
    ///
    /// # Errors
    /// [`Fault::Config`] when the device cannot be served as it is described.
    fn bus(&self, device: &Device<Self>) -> Result<String, Fault>;

    /// Opens the line to a device. The connection then serves all devices of the same bus.
    ///
    /// # Errors
    /// [`Fault::Lost`]: it is tried again, less and less often. [`Fault::Config`]: not until the device changes.
    fn connect(&self, device: &Device<Self>) -> impl Future<Output = Result<Self::Connection, Fault>> + Send;

    /// How long one call may take for this device.
    fn deadline(&self, _device: &Device<Self>) -> Duration {
        DEFAULT_DEADLINE
    }
}

/// A line that is open, to one device or to several.
pub trait Connection<D: Driver>: Sized + Send + 'static {
    /// Reads the points of one device that are due. The samples are in the order of the points, one each: a
    /// point that fails alone is [`Sample::bad`], and the others go on.
    ///
    /// # Errors
    /// When no point of the device can be read: [`Fault`] says what it means for the device and for the line.
    fn read(
        &mut self,
        device: &Device<D>,
        points: &[&Point<D>],
    ) -> impl Future<Output = Result<Vec<Sample>, Fault>> + Send;

    /// Writes one value, which is of the point's type and range. It is read back afterwards.
    ///
    /// # Errors
    /// [`Fault::Refused`] with the device's words: not tried again until somebody wants another value.
    fn write(
        &mut self,
        device: &Device<D>,
        point: &Point<D>,
        value: &Value,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Asks the device to tell of changes by itself. `Ok(true)`: it will, through `updates`, beginning with the
    /// present values, and the points are not polled while the connection lasts. `Ok(false)`, the default:
    /// they are polled. A driver that notices by itself that the line is lost says so there too.
    ///
    /// # Errors
    /// As with `read`.
    fn subscribe(
        &mut self,
        _device: &Device<D>,
        _points: &[&Point<D>],
        _updates: Updates,
    ) -> impl Future<Output = Result<bool, Fault>> + Send {
        async { Ok(false) }
    }

    /// Whether a device is there that was not read for a while.
    ///
    /// # Errors
    /// As with `read`.
    fn check(&mut self, _device: &Device<D>) -> impl Future<Output = Result<(), Fault>> + Send {
        async { Ok(()) }
    }

    /// A device is no longer served by this connection: its subscriptions end.
    fn release(&mut self, _device: &Device<D>) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Closes the line politely. Not called when it is lost.
    fn close(self) -> impl Future<Output = ()> + Send {
        async {}
    }
}
