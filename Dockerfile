# A server of one model in ONNX, without torch: docker build -t hybrid-pruning .
# docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/onnx:/model:ro" hybrid-pruning
FROM python:3.12-slim
RUN useradd --create-home --uid 1000 serve
WORKDIR /home/serve
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
# the base installation, which has no torch: an .onnx file needs none
RUN pip install --no-cache-dir --constraint constraints.txt ".[serve]" \
 && rm -rf src
USER 1000
EXPOSE 8000
HEALTHCHECK --start-period=30s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=3)"]
ENTRYPOINT ["hybrid-pruning", "serve", "--host", "0.0.0.0"]
CMD ["/model"]
