"""One stream across two connections: states, credit, retry, drain. Bytes, snapshots and the time go in;
bytes to write, connections to open or close and records of finished streams come out. Does no I/O."""
