Feature: The night's work is done, and the desk is told once, though a machine dies
  Markets Operations leaves its models to themselves at night. What the custodian knows is fetched, what the models said
  is measured, the morning's report is kept, and trouble is told to the ticket program: once when it comes and once
  when it is over, whichever machine happens to work.

  Scenario: One machine begins, another one ends
    Given a settlements desk whose model is measured, and a custodian who knows what failed
    And a rule of the desk that fires when 3 trades or more have failed
    And the trades of the last two days have been scored, and of some the desk knows itself what became of them
    When a machine works
    And tables were not made for an hour
    Then there are tables for the week ahead
    And what the custodian knows is in the ledger
    And both days were measured with it
    And the report of the night is kept
    And the ticket program was told nothing
    When the ticket program is away
    And the custodian learns that 4 trades have failed
    Then the rule fires and its message waits
    When the machine loses power
    And another machine works
    And the ticket program is back
    Then the ticket program was told once that the rule fires, and by us
    When the custodian learns that 2 of these have settled
    Then the ticket program was told once that it is over, and by us
    And however long they work, it was told 2 times in all
    And the list of runs says of both machines what each did, how long that took, and what failed
