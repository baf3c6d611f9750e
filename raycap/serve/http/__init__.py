"""The ingress: everything between a socket and a captioner.

app.py is a plain FastAPI app, ingress.py puts it into Serve.
"""
