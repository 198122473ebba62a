"""Who does what, when: `(shape, method, cluster) -> Plan`, and the driving of devices that hold a plan."""
