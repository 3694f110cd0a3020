//! CloudHub: ends the nodes' connections and relays them to the sources and sinks.
