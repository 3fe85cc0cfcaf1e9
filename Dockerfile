# A server of one model in ONNX, without torch: docker build -t hybrid-pruning .
# docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/onnx:/model:ro" hybrid-pruning
FROM python:3.12-slim
RUN useradd --create-home --uid 1000 serve
WORKDIR /home/serve
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
# torch, transformers and what trains are left out: an .onnx file needs none of them
RUN pip install --no-cache-dir --no-deps . \
 && pip install --no-cache-dir --constraint constraints.txt \
      "numpy>=1.26" "scipy>=1.12" "soundfile>=0.13" "soxr>=0.5" "av>=18" "safetensors>=0.5" "huggingface_hub>=1.0" \
      "pydantic>=2.8,<3" "PyYAML>=6.0.3" "typer>=0.15" "rich>=14.1" onnxruntime \
      "fastapi>=0.115" "uvicorn>=0.35" "websockets>=14" "python-multipart>=0.0.18" \
 && rm -rf src
USER serve
EXPOSE 8000
HEALTHCHECK --start-period=30s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=3)"]
ENTRYPOINT ["hybrid-pruning", "serve", "--host", "0.0.0.0"]
CMD ["/model"]
