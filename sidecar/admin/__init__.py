"""Health, metrics and status over HTTP/1.1 on the admin port; sans-IO.

What belongs here: what the admin port answers, and the shape of what it is told (`model`). Bytes and the
time go in, bytes to write come out; `__main__` owns the sockets and fills the model from the engine.

    server    the routes and who may see what
    connection  one HTTP/1.1 connection: h11, time-outs, bounds
    metrics   a Status as Prometheus text 0.0.4 or OpenMetrics 1.0
    page      the status page: one file, no outside assets
    process   the standard process_* figures, from /proc
"""
