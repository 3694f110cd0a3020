//! What every Skerry service shares: names, errors, backoff, drain, configuration.
