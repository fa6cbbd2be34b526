"""What Prometheus is told, over HTTP. Figures of the whole process: no label names a room."""
