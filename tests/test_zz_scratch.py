import time
def test_a(tiny_run):
    import subprocess
    print(subprocess.run(f"ls -la {tiny_run}; cat {tiny_run}/metrics.jsonl {tiny_run}/log.txt",shell=True,capture_output=True,text=True).stdout)
def test_b(tiny_config, tmp_path):
    from detection.training.run import train
    from detection.config import from_dict
    t=time.time()
    tiny_config["train"]["iterations"]=12
    tiny_config["output"]=str(tmp_path/"r")
    train(from_dict(tiny_config), tiny_config)
    print("12 its", time.time()-t)
