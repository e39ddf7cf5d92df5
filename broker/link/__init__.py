"""What carries messages: MQTT, or memory in tests; what comes in, by sender."""
