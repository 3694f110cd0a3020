//! edged: pods over the Container Runtime Interface.
