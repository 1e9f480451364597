"""The same work behind other people's servers. They are installed beside, never a dependency:

python -m venv /path/peers && /path/peers/bin/pip install litserve bentoml simplejpeg opencv-python-headless -e .
python -m benchmarks.peers.compare --python /path/peers/bin/python --json benchmarks/results/peers.json
"""
