"""An application with jobs, for servers in processes of their own."""

SOURCE = """
    import os
    import time

    from fastapi import FastAPI

    from fastapi_aqueduct import Aqueduct, Flow, FlowStep, Job, Jobs, JobStatus
    from tests.jobs.handlers import Pausing, Work

    flow = Flow(FlowStep(Pausing(), nprocs=2), mp_start_method="forkserver", stop_timeout=1.0)
    jobs = Jobs("jobs.db", max_retries=5)
    app = FastAPI(lifespan=Aqueduct(flow, jobs=jobs).lifespan)

    @app.post("/works", status_code=202)
    @jobs.endpoint(flow, result=lambda work: work.done)
    async def work(job: Job[Work]) -> JobStatus:
        return job.status

    @app.get("/process")
    async def process() -> tuple[int, bool]:
        return os.getpid(), jobs._ownership.tenure is not None

    app.include_router(jobs.router, prefix="/jobs")
"""
